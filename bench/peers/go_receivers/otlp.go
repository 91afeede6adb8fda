package main

import (
	"encoding/hex"
	"net/http"
	"strconv"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
)

func readOTLP(b *batch, body []byte) error {
	request := plogotlp.NewExportRequest()
	if err := request.UnmarshalProto(body); err != nil {
		return err
	}
	resources := request.Logs().ResourceLogs()
	for i := range resources.Len() {
		resource := resources.At(i)
		service := ""
		if value, ok := resource.Resource().Attributes().Get("service.name"); ok {
			service = value.AsString()
		}
		scopes := resource.ScopeLogs()
		for j := range scopes.Len() {
			scope := scopes.At(j)
			b.share(func() {
				b.attributes("resource.", resource.Resource().Attributes(), "service.name")
				if name := scope.Scope().Name(); name != "" {
					b.pair("scope.name", name)
				}
				if version := scope.Scope().Version(); version != "" {
					b.pair("scope.version", version)
				}
				b.attributes("scope.", scope.Scope().Attributes(), "")
			})
			records := scope.LogRecords()
			for k := range records.Len() {
				b.logRecord(records.At(k), service)
			}
		}
	}
	return nil
}

func (b *batch) logRecord(record plog.LogRecord, service string) {
	nanos := uint64(record.Timestamp())
	if nanos == 0 {
		nanos = uint64(record.ObservedTimestamp())
	}
	if nanos == 0 {
		nanos = uint64(time.Now().UnixNano())
	}
	b.begin()
	b.moment(int64(nanos/1e9), int(nanos%1e9))
	message := ""
	if body := record.Body(); body.Type() == pcommon.ValueTypeStr {
		message = body.Str()
	} else {
		message = body.AsString()
	}
	b.head(service, message)
	b.useShared()
	if observed := uint64(record.ObservedTimestamp()); observed != 0 && observed != nanos && b.name("", "observed_timestamp") {
		b.moment(int64(observed/1e9), int(observed%1e9))
	}
	b.attributes("", record.Attributes(), "")
	if number := record.SeverityNumber(); number != 0 {
		b.pair("severity_number", strconv.Itoa(int(number)))
	}
	if text := record.SeverityText(); text != "" {
		b.pair("severity_text", text)
	}
	if id := record.TraceID(); !id.IsEmpty() {
		b.hexPair("trace_id", id[:])
	}
	if id := record.SpanID(); !id.IsEmpty() {
		b.hexPair("span_id", id[:])
	}
	if flags := record.Flags(); flags != 0 {
		b.pair("flags", strconv.FormatUint(uint64(flags), 10))
	}
	b.end()
}

func (b *batch) hexPair(name string, value []byte) {
	if b.name("", name) {
		b.out = append(b.out, '"')
		b.out = hex.AppendEncode(b.out, value)
		b.out = append(b.out, '"')
	}
}

func (b *batch) attributes(prefix string, attributes pcommon.Map, without string) {
	for name, value := range attributes.All() {
		if name == without {
			continue
		}
		switch value.Type() {
		case pcommon.ValueTypeStr:
			b.prefixed(prefix, name, value.Str())
		case pcommon.ValueTypeInt:
			if b.name(prefix, name) {
				b.out = append(strconv.AppendInt(append(b.out, '"'), value.Int(), 10), '"')
			}
		case pcommon.ValueTypeBool:
			if b.name(prefix, name) {
				b.out = append(strconv.AppendBool(append(b.out, '"'), value.Bool()), '"')
			}
		case pcommon.ValueTypeDouble:
			if b.name(prefix, name) {
				b.out = append(appendFloat(append(b.out, '"'), value.Double()), '"')
			}
		case pcommon.ValueTypeMap:
			b.attributes(prefix+name+".", value.Map(), "")
		default:
			b.prefixed(prefix, name, value.AsString())
		}
	}
}

func answerOTLP(w http.ResponseWriter, _ *batch) {
	w.Header()["Content-Type"] = []string{"application/x-protobuf"}
	w.WriteHeader(http.StatusOK) // an ExportLogsServiceResponse without members has no bytes
}
