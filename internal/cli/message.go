package cli

import (
	"bufio"
	"encoding/base64"
	"encoding/json/jsontext"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"

	"github.com/sluice-mq/sluice/sdk/go"
	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
)

// message is one message as it is printed.
type message struct {
	ID                        string
	Key, Body                 []byte // nil: none, a null body
	Headers                   []sluice.Header
	Tag                       string
	Topic, Cluster, Partition string
	Offset                    int64
	Attempt                   int
	Published, Delivered      time.Time
}

func ofDelivery(d *sluice.Delivery, now time.Time) *message {
	return &message{
		ID: d.ID, Key: d.Key, Body: d.Body, Headers: d.Headers, Tag: d.Tag, Topic: d.Topic, Cluster: d.Cluster,
		Partition: d.Partition, Offset: d.Offset, Attempt: d.Attempt, Published: d.PublishedAt, Delivered: now,
	}
}

// ofProto is a message that was read without a group, so that it was not delivered.
func ofProto(d *sluicev1.Delivery) *message {
	m := &message{
		ID: d.GetId(), Key: d.Key, Body: d.Body, Tag: d.GetTag(), Topic: d.GetTopic(), Cluster: d.GetCluster(),
		Partition: d.GetPartition(), Offset: d.GetOffset(), Attempt: int(d.GetAttempt()), Published: time.UnixMilli(d.GetPublishedAtMs()),
	}
	for _, h := range d.GetHeaders() {
		m.Headers = append(m.Headers, sluice.Header{Name: h.GetName(), Value: h.GetValue()})
	}
	return m
}

// messagePrinter prints messages as the user asked for.
type messagePrinter struct {
	out    *bufio.Writer
	buf    []byte
	format *format // nil: by style
	style  string  // json, yaml, table
}

// newMessagePrinter prints by a format, or else as -o says: JSON, one object a line, where nothing was said and
// nobody watches.
func (a *app) newMessagePrinter(f *format) *messagePrinter {
	style := a.output
	if style == "" {
		style = "json"
		if terminal(a.Out) {
			style = "table"
		}
	}
	return &messagePrinter{out: bufio.NewWriterSize(a.Out, 64<<10), format: f, style: style}
}

func (p *messagePrinter) print(m *message) error {
	b := p.buf[:0]
	switch {
	case p.format != nil:
		b = p.format.append(b, m)
	case p.style == "yaml":
		text, err := yaml.Dump(m.object())
		if err != nil {
			return fmt.Errorf("message %s: %w", m.ID, err)
		}
		b = append(append(b, "---\n"...), text...)
	case p.style == "table":
		b = m.appendLine(b)
	default:
		b = append(m.appendJSON(b), '\n')
	}
	p.buf = b[:0]
	if cap(b) > 1<<20 {
		p.buf = nil // one large message must not hold its memory for ever
	}
	_, err := p.out.Write(b)
	return err
}

func (p *messagePrinter) flush() error { return p.out.Flush() }

// appendJSON appends the message as one JSON object, by hand: this is most of what printing a message costs.
func (m *message) appendJSON(b []byte) []byte {
	b = quoted(append(b, `{"id":`...), m.ID)
	b = appendBytes(append(b, `,"key`...), m.Key)
	b = appendBytes(append(b, `,"body`...), m.Body)
	b = appendHeaders(append(b, `,"headers":`...), m.Headers)
	b = quoted(append(b, `,"tag":`...), m.Tag)
	b = quoted(append(b, `,"topic":`...), m.Topic)
	b = quoted(append(b, `,"cluster":`...), m.Cluster)
	b = quoted(append(b, `,"partition":`...), m.Partition)
	b = strconv.AppendInt(append(b, `,"offset":"`...), m.Offset, 10)
	b = strconv.AppendInt(append(b, `","attempt":`...), int64(m.Attempt), 10)
	b = appendTime(append(b, `,"published_at":`...), m.Published)
	b = appendTime(append(b, `,"delivered_at":`...), m.Delivered)
	return append(b, '}')
}

// appendLine appends the message as a line for people.
func (m *message) appendLine(b []byte) []byte {
	b = append(b, m.Topic...)
	b = append(append(b, '/'), m.Partition...)
	b = strconv.AppendInt(append(b, '@'), m.Offset, 10)
	if m.Key != nil {
		b = append(append(b, "  "...), clean(string(m.Key))...)
	}
	b = append(b, "  "...)
	switch {
	case m.Body == nil:
		b = append(b, "(null)"...)
	case utf8.Valid(m.Body):
		b = append(b, clean(string(m.Body))...)
	default:
		b = append(b, fmt.Sprintf("(%d bytes, not text)", len(m.Body))...)
	}
	return append(b, '\n')
}

// object is the message for YAML.
func (m *message) object() object {
	headers := make(object, 0, len(m.Headers))
	for _, h := range m.Headers {
		headers = append(headers, viewBytes(h.Name, h.Value))
	}
	return object{
		{"id", m.ID},
		viewBytes("key", m.Key), viewBytes("body", m.Body),
		{"headers", headers},
		{"tag", m.Tag},
		{"topic", m.Topic},
		{"cluster", m.Cluster},
		{"partition", m.Partition},
		{"offset", decimal(m.Offset)},
		{"attempt", m.Attempt},
		{"published_at", stamp(m.Published)},
		{"delivered_at", stamp(m.Delivered)},
	}
}

func stamp(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UTC().Format(timeFormat)
}

func appendTime(b []byte, t time.Time) []byte {
	if t.IsZero() {
		return append(b, "null"...)
	}
	return append(t.UTC().AppendFormat(append(b, '"'), timeFormat), '"')
}

// quoted appends a JSON string; bytes that are no UTF-8 become U+FFFD.
func quoted[T string | []byte](b []byte, s T) []byte {
	b, _ = jsontext.AppendQuote(b, s) // the error tells of the replacement
	return b
}

// appendBytes ends the name that b ends in: text as it is, the rest as NAME_base64.
func appendBytes(b, v []byte) []byte {
	switch {
	case v == nil:
		return append(b, `":null`...)
	case utf8.Valid(v):
		return quoted(append(b, `":`...), v)
	default:
		b = append(b, `_base64":"`...)
		return append(base64.StdEncoding.AppendEncode(b, v), '"')
	}
}

// appendHeaders appends an object; a name that occurs several times has a list, at its first place.
func appendHeaders(b []byte, hs []sluice.Header) []byte {
	b = append(b, '{')
	byName := make(map[string][]int, len(hs))
	for i := range hs {
		byName[hs[i].Name] = append(byName[hs[i].Name], i)
	}
	first := true
	for i := range hs {
		same := byName[hs[i].Name]
		if same[0] != i {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = append(quoted(b, hs[i].Name), ':')
		if len(same) == 1 {
			b = appendHeaderValue(b, hs[i].Value)
			continue
		}
		for n, j := range same {
			b = append(b, "[,"[min(n, 1)])
			b = appendHeaderValue(b, hs[j].Value)
		}
		b = append(b, ']')
	}
	return append(b, '}')
}

func appendHeaderValue(b, v []byte) []byte {
	if utf8.Valid(v) {
		return quoted(b, v)
	}
	b = append(b, `{"base64":"`...)
	return append(base64.StdEncoding.AppendEncode(b, v), `"}`...)
}
