package data

import (
	"bytes"
	"encoding/base64"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/publish"
)

// maxDepth bounds nesting where a body may hold JSON of any shape (the data of a CloudEvent); all else is bounded by its type.
const maxDepth = 64

// publishBody is the body of POST /v1/topics/{topic}/messages.
type publishBody struct {
	Messages   []messageBody `json:"messages"`
	Timeout    duration      `json:"timeout"`
	TimeoutMS  uint32        `json:"timeout_ms"`
	Durability string        `json:"durability"`
}

// messageBody is one message in it.
type messageBody struct {
	ID         string   `json:"id"`
	Key        text     `json:"key"`
	KeyBase64  base     `json:"key_base64"`
	Body       text     `json:"body"`
	BodyBase64 base     `json:"body_base64"`
	Headers    headers  `json:"headers"`
	Tag        string   `json:"tag"`
	Partition  string   `json:"partition"`
	Delay      duration `json:"delay"`
	DelayMS    uint64   `json:"delay_ms"`
}

// pullBody is the body of POST /v1/groups/{group}/pull.
type pullBody struct {
	Topics         []string  `json:"topics"`
	MaxMessages    uint32    `json:"max_messages"`
	Wait           duration  `json:"wait"`
	WaitMS         uint32    `json:"wait_ms"`
	Order          string    `json:"order"`
	Filter         string    `json:"filter"`
	FilterLanguage string    `json:"filter_language"`
	From           string    `json:"from"`
	Lease          duration  `json:"lease"`
	LeaseMS        uint32    `json:"lease_ms"`
	MaxInFlight    uint32    `json:"max_in_flight"`
	Client         string    `json:"client"`
	Acks           []ackBody `json:"acks"`
}

// acksBody is the body of POST /v1/groups/{group}/ack.
type acksBody struct {
	Acks []ackBody `json:"acks"`
}

// ackBody is one ack in them.
type ackBody struct {
	Receipt string   `json:"receipt"`
	Action  string   `json:"action"`
	Delay   duration `json:"delay"`
	DelayMS uint32   `json:"delay_ms"`
	Cause   string   `json:"cause"`
}

// text is a JSON string as bytes; nil for null and for an absent one, empty for "".
type text []byte

// UnmarshalJSONFrom implements json.UnmarshalerFrom, with one allocation and no copy beside it.
func (t *text) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	v, err := d.ReadValue()
	if err != nil {
		return err
	}
	switch v.Kind() {
	case 'n':
		*t = nil
		return nil
	case '"':
		// The decoder has checked the string; most bodies hold no escape, and then a copy does.
		if inner := v[1 : len(v)-1]; bytes.IndexByte(inner, '\\') < 0 {
			*t = append(make([]byte, 0, len(inner)), inner...)
			return nil
		}
		b, err := jsontext.AppendUnquote(make([]byte, 0, len(v)), v)
		*t = b
		return err
	default:
		return errors.New("a string or null is expected; use the field with _base64 for other bytes")
	}
}

// base is a JSON string of standard base64; nil for null and for an absent one.
type base []byte

// UnmarshalJSONFrom implements json.UnmarshalerFrom.
func (t *base) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	var s text
	if err := s.UnmarshalJSONFrom(d); err != nil {
		return err
	}
	if s == nil {
		*t = nil
		return nil
	}
	b, err := decodeBase64(s)
	*t = b
	return err
}

// decodeBase64 decodes in place; the result is not nil.
func decodeBase64(s []byte) ([]byte, error) {
	n, err := base64.StdEncoding.Strict().Decode(s, s)
	if err != nil {
		return nil, fmt.Errorf("not standard base64: %w", err)
	}
	return s[:n], nil
}

// headers is an object of names and values: a string, {"base64": "..."}, or a list of these.
type headers []publish.Header

// UnmarshalJSONFrom implements json.UnmarshalerFrom; the order of the document is kept.
func (h *headers) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	switch d.PeekKind() {
	case 'n':
		*h = nil
		return d.SkipValue()
	case '{':
	default:
		return errors.New("an object of header names is expected")
	}
	if _, err := d.ReadToken(); err != nil {
		return err
	}
	for d.PeekKind() != '}' {
		name, err := d.ReadToken()
		if err != nil {
			return err
		}
		n := name.String()
		if d.PeekKind() != '[' {
			if err := h.value(d, n); err != nil {
				return err
			}
			continue
		}
		if _, err := d.ReadToken(); err != nil {
			return err
		}
		for d.PeekKind() != ']' {
			if err := h.value(d, n); err != nil {
				return err
			}
		}
		if _, err := d.ReadToken(); err != nil {
			return err
		}
	}
	_, err := d.ReadToken()
	return err
}

// value reads one value of a header.
func (h *headers) value(d *jsontext.Decoder, name string) error {
	switch d.PeekKind() {
	case '"':
		var v text
		if err := v.UnmarshalJSONFrom(d); err != nil {
			return err
		}
		*h = append(*h, publish.Header{Name: name, Value: v})
		return nil
	case '{':
		var v struct {
			Base64 base `json:"base64"`
		}
		if err := json.UnmarshalDecode(d, &v, json.RejectUnknownMembers(true)); err != nil {
			return err
		}
		if v.Base64 == nil {
			return errors.New(`{"base64": "..."} is expected`)
		}
		*h = append(*h, publish.Header{Name: name, Value: v.Base64})
		return nil
	case 0:
		_, err := d.ReadToken() // malformed: says where
		return err
	default:
		return errors.New(`a string, {"base64": "..."} or a list of these is expected`)
	}
}

// duration is a JSON string such as "5s".
type duration time.Duration

// UnmarshalJSONFrom implements json.UnmarshalerFrom.
func (t *duration) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	var s text
	if err := s.UnmarshalJSONFrom(d); err != nil {
		return errors.New(`a string such as "5s" is expected; for a number use the field with _ms`)
	}
	if s == nil {
		*t = 0
		return nil
	}
	v, err := time.ParseDuration(string(s))
	if err != nil || v < 0 {
		return fmt.Errorf("%q is not a duration; use a string such as \"5s\" or \"1m30s\"", cut(string(s), 40))
	}
	*t = duration(v)
	return nil
}

// pick takes one of the two spellings of a duration.
func pick(field string, d duration, ms uint64) (time.Duration, error) {
	if d != 0 && ms != 0 {
		return 0, fault.New(fault.InvalidArgument, "%s and %s_ms are both set; use one", field, field)
	}
	const most = uint64(24 * time.Hour / time.Millisecond)
	if ms > most || time.Duration(d) > 24*time.Hour {
		return 0, fault.New(fault.InvalidArgument, "%s is out of range; at most 24h is allowed", field)
	}
	if d != 0 {
		return time.Duration(d), nil
	}
	return time.Duration(ms) * time.Millisecond, nil //nolint:gosec // bounded above
}

// decodeJSON is strict: unknown and repeated fields, text that is not UTF-8 and anything after the value are errors.
func decodeJSON(body []byte, into any) error {
	return jsonFault(json.Unmarshal(body, into, json.RejectUnknownMembers(true)))
}

// jsonFault says where and what in words of JSON, not of Go.
func jsonFault(err error) error {
	if err == nil {
		return nil
	}
	if syntactic, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		if errors.Is(syntactic.Err, io.ErrUnexpectedEOF) {
			return fault.New(fault.InvalidArgument, "the body is empty or ends in the middle of a JSON value, at byte %d%s", syntactic.ByteOffset, at(string(syntactic.JSONPointer)))
		}
		return fault.New(fault.InvalidArgument, "the body is not valid JSON at byte %d%s: %v", syntactic.ByteOffset, at(string(syntactic.JSONPointer)), syntactic.Err)
	}
	if semantic, ok := errors.AsType[*json.SemanticError](err); ok {
		where := at(string(semantic.JSONPointer))
		switch {
		case errors.Is(semantic.Err, json.ErrUnknownName):
			return fault.New(fault.InvalidArgument, "unknown field%s; see /v1/openapi.json for those there are", where)
		case semantic.Err != nil:
			return fault.New(fault.InvalidArgument, "wrong value%s: %v", where, semantic.Err)
		default:
			return fault.New(fault.InvalidArgument, "wrong value%s: a JSON %s does not fit here", where, semantic.JSONKind)
		}
	}
	return fault.New(fault.InvalidArgument, "the body is not what is expected: %v", err)
}

func at(pointer string) string {
	if pointer == "" {
		return ""
	}
	return " at " + cut(pointer, 200)
}

// cut shortens text that a client chose.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "..."
}

// message turns one JSON message into the engine's form.
func (m *messageBody) message() (publish.Message, error) {
	out := publish.Message{ID: m.ID, Headers: m.Headers, Tag: m.Tag, Partition: m.Partition}
	var err error
	if out.Key, err = either("key", m.Key, m.KeyBase64); err != nil {
		return out, err
	}
	if out.Body, err = either("body", m.Body, m.BodyBase64); err != nil {
		return out, err
	}
	if m.Delay != 0 || m.DelayMS != 0 {
		return out, fault.New(fault.Unsupported, "delayed messages are not supported by this release; leave delay and delay_ms out")
	}
	return out, nil
}

func either(field string, s text, b base) ([]byte, error) {
	if s != nil && b != nil {
		return nil, fault.New(fault.InvalidArgument, "%s and %s_base64 are both set; use one", field, field)
	}
	if b != nil {
		return b, nil
	}
	return s, nil
}
