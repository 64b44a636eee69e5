package cli

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/sluice-mq/sluice/sdk/go"
)

// maxInputBytes bounds one message of the input: more than any topic takes, with base64 around it.
const maxInputBytes = 8 << 20

// source gives messages one by one; io.EOF ends it. Every other error names the line.
type source interface {
	next() (sluice.Message, error)
}

// one is a single message.
type one struct {
	m    sluice.Message
	done bool
}

func (o *one) next() (sluice.Message, error) {
	if o.done {
		return sluice.Message{}, io.EOF
	}
	o.done = true
	return o.m, nil
}

// reader reads pieces that end with a delimiter, within the limit of memory.
type reader struct {
	r *bufio.Reader
	n int // pieces read
}

func newReader(r io.Reader) *reader { return &reader{r: bufio.NewReaderSize(r, 64<<10)} }

// until reads up to a delimiter, which is left out. At the end of the input it returns what is there with io.EOF.
func (r *reader) until(delim []byte) ([]byte, error) {
	var piece []byte
	last := delim[len(delim)-1]
	for {
		part, err := r.r.ReadSlice(last)
		if len(piece)+len(part) > maxInputBytes+len(delim) {
			return nil, fmt.Errorf("message %d: is longer than %d MiB; the largest message is 4 MiB", r.n+1, maxInputBytes>>20)
		}
		piece = append(piece, part...)
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
		case err != nil:
			return piece, err
		case bytes.HasSuffix(piece, delim):
			return piece[:len(piece)-len(delim)], nil
		}
	}
}

// lines gives one message a line, with the key before keyDelim where one is given.
type lines struct {
	r        *reader
	keyDelim string
	base     sluice.Message
}

func (l *lines) next() (sluice.Message, error) {
	line, err := l.r.until([]byte{'\n'})
	if err != nil && (!errors.Is(err, io.EOF) || len(line) == 0) {
		return sluice.Message{}, err
	}
	l.r.n++
	line = bytes.TrimSuffix(line, []byte{'\r'})
	m := l.base
	m.Body = line
	if l.keyDelim != "" {
		key, body, ok := bytes.Cut(line, []byte(l.keyDelim))
		if !ok {
			return m, fmt.Errorf("line %d: holds no key delimiter %q; every line needs KEY%sBODY", l.r.n, l.keyDelim, l.keyDelim)
		}
		m.Key, m.Body = notNil(key), notNil(body)
	}
	m.Body = notNil(m.Body)
	return m, nil
}

// notNil makes an empty text empty: nil would be a null body, or no key.
func notNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// jsonMessage is one line of --json.
type jsonMessage struct {
	ID         string      `json:"id"`
	Key        *string     `json:"key"`
	KeyBase64  *string     `json:"key_base64"`
	Body       *string     `json:"body"`
	BodyBase64 *string     `json:"body_base64"`
	Headers    jsonHeaders `json:"headers"`
	Tag        string      `json:"tag"`
	Partition  string      `json:"partition"`
	DelayMS    uint64      `json:"delay_ms"`
}

// jsonHeaders keeps the order of the document; a value is a string, {"base64": "..."}, or a list of these.
type jsonHeaders []sluice.Header

// UnmarshalJSONFrom implements json.UnmarshalerFrom.
func (h *jsonHeaders) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	if d.PeekKind() == 'n' {
		return d.SkipValue()
	}
	if d.PeekKind() != '{' {
		return errors.New("headers must be an object of names and values")
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
		if err := h.values(d, n); err != nil {
			return err
		}
	}
	_, err := d.ReadToken()
	return err
}

func (h *jsonHeaders) values(d *jsontext.Decoder, name string) error {
	if d.PeekKind() != '[' {
		return h.value(d, name)
	}
	if _, err := d.ReadToken(); err != nil {
		return err
	}
	for d.PeekKind() != ']' {
		if err := h.value(d, name); err != nil {
			return err
		}
	}
	_, err := d.ReadToken()
	return err
}

func (h *jsonHeaders) value(d *jsontext.Decoder, name string) error {
	switch d.PeekKind() {
	case '"':
		t, err := d.ReadToken()
		if err != nil {
			return err
		}
		*h = append(*h, sluice.Header{Name: name, Value: []byte(t.String())})
		return nil
	case '{':
		var v struct {
			Base64 []byte `json:"base64"`
		}
		if err := json.UnmarshalDecode(d, &v, json.RejectUnknownMembers(true)); err != nil {
			return err
		}
		*h = append(*h, sluice.Header{Name: name, Value: v.Base64})
		return nil
	default:
		return fmt.Errorf(`header %q must be a string, {"base64": "..."} or a list of these`, name)
	}
}

// jsonLines gives one message for each object.
type jsonLines struct {
	r    *reader
	base sluice.Message
}

func (l *jsonLines) next() (sluice.Message, error) {
	for {
		line, err := l.r.until([]byte{'\n'})
		if err != nil && (!errors.Is(err, io.EOF) || len(line) == 0) {
			return sluice.Message{}, err
		}
		l.r.n++
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		m, perr := parseJSON(line, l.base)
		if perr != nil {
			return m, fmt.Errorf("line %d: %w", l.r.n, perr)
		}
		return m, nil
	}
}

func parseJSON(line []byte, base sluice.Message) (sluice.Message, error) {
	var j jsonMessage
	if err := json.Unmarshal(line, &j, json.RejectUnknownMembers(true)); err != nil {
		return base, fmt.Errorf("not a message: %w", jsonCause(err))
	}
	if j.DelayMS > 0 {
		return base, errors.New("delay_ms: delayed messages come with a later release; leave it out")
	}
	m := base
	if j.ID != "" {
		m.ID = j.ID
	}
	if j.Tag != "" {
		m.Tag = j.Tag
	}
	if j.Partition != "" {
		m.Partition = j.Partition
	}
	m.HeaderList = append(slices.Clip(m.HeaderList), j.Headers...)
	var err error
	if j.Key != nil || j.KeyBase64 != nil {
		if m.Key, err = textOrBase64("key", j.Key, j.KeyBase64); err != nil {
			return m, err
		}
	}
	m.Body, err = textOrBase64("body", j.Body, j.BodyBase64)
	return m, err
}

// jsonCause leaves out the names of Go types.
func jsonCause(err error) error {
	var se *json.SemanticError
	if !errors.As(err, &se) {
		return err
	}
	where := string(se.JSONPointer)
	switch {
	case errors.Is(err, json.ErrUnknownName):
		return fmt.Errorf("unknown field %s; there are id, key, key_base64, body, body_base64, headers, tag, partition", where)
	case se.Err != nil:
		return fmt.Errorf("field %s: %w", where, se.Err)
	default:
		return fmt.Errorf("field %s: has the wrong type", where)
	}
}

func textOrBase64(name string, text, encoded *string) ([]byte, error) {
	switch {
	case text != nil && encoded != nil:
		return nil, fmt.Errorf("%s and %s_base64: give one of them", name, name)
	case text != nil:
		return []byte(*text), nil
	case encoded != nil:
		b, err := base64.StdEncoding.DecodeString(*encoded)
		if err != nil {
			return nil, fmt.Errorf("%s_base64: is not standard base64", name)
		}
		return notNil(b), nil
	default:
		return nil, nil
	}
}

// formatted gives messages that a --format describes.
type formatted struct {
	r    *reader
	f    *format
	base sluice.Message
}

func (s *formatted) next() (sluice.Message, error) {
	m := s.base
	parts := s.f.parts
	for i := 0; i < len(parts); i++ {
		if parts[i].verb == 0 { // text in front of the first verb
			if piece, err := s.r.until([]byte(parts[i].text)); err != nil {
				if errors.Is(err, io.EOF) && len(piece) > 0 {
					return m, s.broken(parts[i].text)
				}
				return m, err
			}
			continue
		}
		delim := parts[i+1].text // input() saw to it that text follows
		piece, err := s.r.until([]byte(delim))
		last := i+2 == len(parts)
		switch {
		case errors.Is(err, io.EOF) && len(piece) == 0 && i == 0:
			return m, io.EOF
		case errors.Is(err, io.EOF) && last: // the last message may lack its end
		case errors.Is(err, io.EOF):
			return m, s.broken(delim)
		case err != nil:
			return m, err
		}
		if err := s.set(&m, parts[i], piece); err != nil {
			return m, fmt.Errorf("message %d: %w", s.r.n+1, err)
		}
		i++
	}
	s.r.n++
	if m.Body == nil {
		m.Body = []byte{}
	}
	return m, nil
}

func (s *formatted) broken(delim string) error {
	return fmt.Errorf("message %d: the input ends before %q; is --format right?", s.r.n+1, delim)
}

func (s *formatted) set(m *sluice.Message, p part, piece []byte) error {
	v, err := unmodify(piece, p.modifier, p.verb)
	if err != nil {
		return err
	}
	switch p.verb {
	case 'k':
		m.Key = notNil(v)
	case 'v':
		m.Body = notNil(v)
	case 'p':
		m.Partition = string(v)
	case 'i':
		m.ID = string(v)
	case 'g':
		m.Tag = string(v)
	case 'h':
		m.HeaderList, err = headersFrom(m.HeaderList, v, p.modifier)
	}
	return err
}

func unmodify(piece []byte, modifier string, verb byte) ([]byte, error) {
	switch modifier {
	case "hex":
		b, err := hex.DecodeString(string(piece))
		if err != nil {
			return nil, fmt.Errorf("%%%c{hex}: %q is not hexadecimal", verb, piece)
		}
		return b, nil
	case "base64":
		b, err := base64.StdEncoding.DecodeString(string(piece))
		if err != nil {
			return nil, fmt.Errorf("%%%c{base64}: is not standard base64", verb)
		}
		return b, nil
	case "json":
		if verb == 'h' {
			return piece, nil
		}
		var s string
		if err := json.Unmarshal(piece, &s); err != nil {
			return nil, fmt.Errorf("%%%c{json}: is not a JSON string", verb)
		}
		return []byte(s), nil
	default:
		return piece, nil
	}
}

func headersFrom(hs []sluice.Header, text []byte, modifier string) ([]sluice.Header, error) {
	hs = slices.Clip(hs) // the list is shared by all messages
	if modifier == "json" {
		var j jsonHeaders
		if err := json.Unmarshal(text, &j); err != nil {
			return nil, fmt.Errorf("%%h{json}: %w", jsonCause(err))
		}
		return append(hs, j...), nil
	}
	if len(text) == 0 {
		return hs, nil
	}
	for kv := range strings.SplitSeq(string(text), ",") {
		name, value, ok := strings.Cut(kv, "=")
		if !ok {
			return nil, fmt.Errorf("%%h: %q is not NAME=VALUE", kv)
		}
		hs = append(hs, sluice.Header{Name: name, Value: []byte(value)})
	}
	return hs, nil
}

// delimiter reads a --key-delim, with the escapes of --format.
func delimiter(s string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(s); {
		if s[i] != '\\' {
			b.WriteByte(s[i])
			i++
			continue
		}
		c, n, err := unescape(s[i:])
		if err != nil {
			return "", usage("key-delim %s: %s", strconv.Quote(s), err)
		}
		b.WriteByte(c)
		i += n
	}
	if strings.Contains(b.String(), "\n") {
		return "", usage("key-delim: a line end separates messages; choose another delimiter")
	}
	return b.String(), nil
}
