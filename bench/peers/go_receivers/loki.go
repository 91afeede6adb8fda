package main

import (
	"errors"
	"net/http"
	"strconv"
	"strings"

	"github.com/grafana/loki/pkg/push"
	"github.com/klauspost/compress/snappy"
)

var errLabels = errors.New("labels are no selector")

func readPush(b *batch, body []byte) error {
	size, err := snappy.DecodedLen(body)
	if err != nil || size > bodyBytesMax {
		return snappy.ErrTooLarge
	}
	if b.scratch, err = snappy.Decode(b.scratch[:cap(b.scratch)], body); err != nil {
		return err
	}
	var request push.PushRequest
	if err := request.Unmarshal(b.scratch); err != nil {
		return err
	}
	for i := range request.Streams {
		stream := &request.Streams[i]
		service := ""
		b.share(func() { service, err = b.labels(stream.Labels) })
		if err != nil {
			return err
		}
		for k := range stream.Entries {
			entry := &stream.Entries[k]
			b.begin()
			b.moment(entry.Timestamp.Unix(), entry.Timestamp.Nanosecond())
			b.head(service, entry.Line)
			b.useShared()
			for _, label := range entry.StructuredMetadata {
				b.pair(label.Name, label.Value)
			}
			b.end()
		}
	}
	return nil
}

// labels writes the pairs of {name="value", ...} and returns the service that they name.
func (b *batch) labels(text string) (string, error) {
	if !strings.HasPrefix(text, "{") || !strings.HasSuffix(text, "}") {
		return "", errLabels
	}
	service, rest := "", text[1:len(text)-1]
	for rest = strings.TrimLeft(rest, " ,"); rest != ""; rest = strings.TrimLeft(rest, " ,") {
		name, after, found := strings.Cut(rest, "=")
		if !found {
			return "", errLabels
		}
		quoted, err := strconv.QuotedPrefix(after)
		if err != nil {
			return "", err
		}
		value, err := strconv.Unquote(quoted)
		if err != nil {
			return "", err
		}
		rest = after[len(quoted):]
		if name = strings.TrimSpace(name); name == "service_name" {
			service = value
		} else {
			b.pair(name, value)
		}
	}
	return service, nil
}

func answerPush(w http.ResponseWriter, _ *batch) {
	w.WriteHeader(http.StatusNoContent)
}
