package data

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/sluice-mq/sluice/internal/publish"
)

// CloudEvents 1.0. Whatever form an event comes in, it is stored in the binary form of the Kafka binding: its attributes
// as headers ce_NAME, its data as the body, its media type as header content-type, its partitionkey as the key. So a
// consumer with a CloudEvents library reads it from Kafka as from here.
//
// An event is the same event where source and id are, so the message's id is made of both.

const (
	ceType      = "application/cloudevents+json"
	ceBatchType = "application/cloudevents-batch+json"
)

// structuredEvent decodes one event in JSON.
func structuredEvent(body []byte) (publish.Message, error) {
	var members map[string]jsontext.Value
	if err := decodeJSON(body, &members); err != nil {
		return publish.Message{}, err
	}
	return event(members)
}

// eventBatch decodes a list of events in JSON.
func eventBatch(body []byte) ([]publish.Message, error) {
	var events []map[string]jsontext.Value
	if err := decodeJSON(body, &events); err != nil {
		return nil, err
	}
	if len(events) > maxMessages {
		return nil, invalid("the batch has %d events; at most %d are allowed, send several requests", len(events), maxMessages)
	}
	ms := make([]publish.Message, len(events))
	for i, e := range events {
		var err error
		if ms[i], err = event(e); err != nil {
			return nil, invalid("event %d: %s", i, textOf(err))
		}
	}
	return ms, nil
}

// event maps the members of a structured event.
func event(members map[string]jsontext.Value) (publish.Message, error) {
	attrs := make(map[string]string, len(members))
	for name, v := range members {
		if name == "data" || name == "data_base64" {
			continue
		}
		if !attributeName(name) {
			return publish.Message{}, invalid("attribute %q: names are lower-case letters and digits", cut(name, 40))
		}
		switch v.Kind() {
		case 'n': // the same as absent
		case '"':
			var s string
			if err := json.Unmarshal(v, &s); err != nil {
				return publish.Message{}, jsonFault(err)
			}
			attrs[name] = s
		case 't', 'f', '0':
			attrs[name] = v.String()
		default:
			return publish.Message{}, invalid("attribute %s: a string, number or boolean is expected", name)
		}
	}
	body, err := eventData(members, attrs)
	if err != nil {
		return publish.Message{}, err
	}
	return eventMessage(attrs, body)
}

// eventData is the body: bytes as they are, JSON as text, a string of another media type as that string. Nil where there is none.
func eventData(members map[string]jsontext.Value, attrs map[string]string) ([]byte, error) {
	data, encoded := members["data"], members["data_base64"]
	hasData, hasEncoded := data != nil && data.Kind() != 'n', encoded != nil && encoded.Kind() != 'n'
	switch {
	case hasData && hasEncoded:
		return nil, invalid("data and data_base64 are both set; use one")
	case hasEncoded:
		var b base
		if err := decodeJSON(encoded, &b); err != nil {
			return nil, err
		}
		return b, nil
	case !hasData:
		return nil, nil
	}
	if depth(data) > maxDepth {
		return nil, invalid("data is nested deeper than %d levels", maxDepth)
	}
	t := attrs["datacontenttype"]
	if t == "" {
		attrs["datacontenttype"] = "application/json"
	}
	if data.Kind() == '"' && t != "" && !isJSONType(t) {
		var s text
		if err := decodeJSON(data, &s); err != nil {
			return nil, err
		}
		return s, nil
	}
	return bytes.Clone(data), nil
}

func isJSONType(t string) bool {
	t, _, _ = strings.Cut(strings.ToLower(t), ";")
	t = strings.TrimSpace(t)
	return t == "application/json" || t == "text/json" || strings.HasSuffix(t, "+json")
}

// binaryEvent maps the headers of a request whose body is the event's data.
func binaryEvent(h http.Header, body []byte) (publish.Message, error) {
	attrs := make(map[string]string)
	for name, vs := range h {
		attr, ok := strings.CutPrefix(strings.ToLower(name), "ce-")
		if !ok {
			continue
		}
		if !attributeName(attr) || len(vs) != 1 {
			return publish.Message{}, invalid("header %s: a CloudEvents attribute occurs once and is named by lower-case letters and digits", cut(name, 40))
		}
		// Values are percent-encoded beyond printable ASCII; what is not well-formed is taken as it is.
		if v, err := url.PathUnescape(vs[0]); err == nil {
			attrs[attr] = v
		} else {
			attrs[attr] = vs[0]
		}
	}
	if t := h.Get("Content-Type"); t != "" {
		attrs["datacontenttype"] = t
	}
	return eventMessage(attrs, body)
}

// eventMessage checks the attributes that every event has and builds the message.
func eventMessage(attrs map[string]string, body []byte) (publish.Message, error) {
	for _, name := range []string{"specversion", "id", "source", "type"} {
		if attrs[name] == "" {
			return publish.Message{}, invalid("the CloudEvent has no %s", name)
		}
	}
	if !strings.HasPrefix(attrs["specversion"], "1.") {
		return publish.Message{}, invalid("specversion %q is not supported; use 1.0", cut(attrs["specversion"], 20))
	}
	sum := sha256.Sum256([]byte(attrs["source"] + "\x00" + attrs["id"]))
	m := publish.Message{ID: "ce-" + hex.EncodeToString(sum[:16]), Body: body, Headers: make([]publish.Header, 0, len(attrs))}
	names := make([]string, 0, len(attrs))
	for name := range attrs {
		names = append(names, name)
	}
	slices.Sort(names) // the same event gives the same record
	for _, name := range names {
		switch name {
		case "datacontenttype":
			m.Headers = append(m.Headers, publish.Header{Name: "content-type", Value: []byte(attrs[name])})
			continue
		case "partitionkey":
			m.Key = []byte(attrs[name])
		}
		m.Headers = append(m.Headers, publish.Header{Name: "ce_" + name, Value: []byte(attrs[name])})
	}
	return m, nil
}

func attributeName(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}

// depth is how deep well-formed JSON is nested.
func depth(v jsontext.Value) int {
	deepest, at := 0, 0
	inString := false
	for i := 0; i < len(v); i++ {
		switch c := v[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			at++
			deepest = max(deepest, at)
		case c == '}' || c == ']':
			at--
		}
	}
	return deepest
}
