package main

import (
	"bytes"
	"errors"
	"net/http"
	"strconv"
	"time"
	"unsafe"

	"github.com/valyala/fastjson"
)

var errAction = errors.New("neither index nor create")

func readBulk(b *batch, body []byte) error {
	for len(body) > 0 {
		var line []byte
		line, body = cutLine(body)
		if len(line) == 0 {
			continue
		}
		value, err := b.parser.ParseBytes(line)
		if err != nil {
			return err
		}
		action, index := "create", value.Get("create")
		if index == nil {
			if action, index = "index", value.Get("index"); index == nil {
				return errAction
			}
		}
		name := string(index.GetStringBytes("_index"))
		line, body = cutLine(body)
		document, err := b.parser.ParseBytes(line)
		if err != nil {
			return err
		}
		object, err := document.Object()
		if err != nil {
			return err
		}
		b.document(object, name)
		b.actions = append(b.actions, action, name)
	}
	return nil
}

func cutLine(body []byte) ([]byte, []byte) {
	if at := bytes.IndexByte(body, '\n'); at >= 0 {
		return body[:at], body[at+1:]
	}
	return body, nil
}

// text returns what is valid until the parser is used again.
func text(value []byte) string {
	return unsafe.String(unsafe.SliceData(value), len(value))
}

func (b *batch) document(object *fastjson.Object, index string) {
	b.begin()
	if moment := text(object.Get("@timestamp").GetStringBytes()); valid(moment) {
		b.out = appendString(b.out, moment)
	} else {
		now := time.Now()
		b.moment(now.Unix(), now.Nanosecond())
	}
	service := text(object.Get("service").GetStringBytes("name"))
	b.head(service, text(object.Get("message").GetStringBytes()))
	b.pair("_index", index)
	b.members("", object)
	b.end()
}

func valid(moment string) bool {
	_, err := time.Parse(time.RFC3339Nano, moment)
	return err == nil
}

// members writes an object's members behind prefix, but for those that are parts of the record.
func (b *batch) members(prefix string, object *fastjson.Object) {
	object.Visit(func(key []byte, value *fastjson.Value) {
		name := text(key)
		if prefix == "" && (name == "@timestamp" || name == "message") || prefix == "service." && name == "name" {
			return
		}
		switch value.Type() {
		case fastjson.TypeString:
			b.prefixed(prefix, name, text(value.GetStringBytes()))
		case fastjson.TypeObject:
			b.members(prefix+name+".", value.GetObject())
		default:
			b.scratch = value.MarshalTo(b.scratch[:0])
			b.prefixed(prefix, name, text(b.scratch))
		}
	})
}

func answerBulk(w http.ResponseWriter, b *batch) {
	out := append(b.scratch[:0], `{"took":1,"errors":false,"items":[`...)
	for line := range b.lines {
		if line > 0 {
			out = append(out, ',')
		}
		out = append(append(append(out, `{"`...), b.actions[2*line]...), `":{"_index":`...)
		out = append(appendString(out, b.actions[2*line+1]), `,"_id":"`...)
		out = append(append(out, b.id(line)...), `","_version":1,"result":"created","status":201}}`...)
	}
	out = append(out, `]}`...)
	b.scratch = out
	header := w.Header()
	header["Content-Type"] = []string{"application/json"}
	header["Content-Length"] = []string{strconv.Itoa(len(out))}
	header["X-Elastic-Product"] = []string{"Elasticsearch"}
	_, _ = w.Write(out)
}
