package cli

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// format is a parsed --format: literal text and verbs in the letters of kcat and rpk.
type format struct{ parts []part }

// part is literal text, or a verb with a modifier.
type part struct {
	text     string
	verb     byte // 0: text
	modifier string
}

// verbHelp names the verbs.
const verbHelp = "%t topic, %k key, %v body, %h headers, %p partition, %o offset, %d time, %a attempt, %i id, %g tag, %%"

// modifiers says which modifiers a verb takes.
var modifiers = map[byte][]string{
	't': nil, 'p': nil, 'o': nil, 'a': nil, 'i': nil, 'g': nil,
	'k': {"hex", "base64", "json", "len"},
	'v': {"hex", "base64", "json", "len"},
	'h': {"json", "len"},
	'd': {"ms", "unix", "rfc3339"},
}

// maxFormatBytes bounds a --format.
const maxFormatBytes = 4096

// parseFormat reads "%k{hex} %v\n".
func parseFormat(s string) (*format, error) {
	if len(s) > maxFormatBytes {
		return nil, usage("format: has %d bytes; at most %d are allowed", len(s), maxFormatBytes)
	}
	f := &format{}
	var text strings.Builder
	literal := func() {
		if text.Len() > 0 {
			f.parts = append(f.parts, part{text: text.String()})
			text.Reset()
		}
	}
	for i := 0; i < len(s); {
		switch s[i] {
		case '\\':
			b, n, err := unescape(s[i:])
			if err != nil {
				return nil, err
			}
			text.WriteByte(b)
			i += n
		case '%':
			if strings.HasPrefix(s[i:], "%%") {
				text.WriteByte('%')
				i += 2
				continue
			}
			p, n, err := parseVerb(s[i:])
			if err != nil {
				return nil, err
			}
			literal()
			f.parts = append(f.parts, p)
			i += n
		default:
			text.WriteByte(s[i])
			i++
		}
	}
	literal()
	return f, nil
}

// unescape reads one escape at the beginning of s.
func unescape(s string) (b byte, n int, err error) {
	if len(s) < 2 {
		return 0, 0, usage(`format: ends in a single \; write \\ for one`)
	}
	switch s[1] {
	case 'n':
		return '\n', 2, nil
	case 't':
		return '\t', 2, nil
	case 'r':
		return '\r', 2, nil
	case '0':
		return 0, 2, nil
	case '\\':
		return '\\', 2, nil
	case 'x':
		if len(s) >= 4 {
			if v, err := strconv.ParseUint(s[2:4], 16, 8); err == nil {
				return byte(v), 4, nil
			}
		}
		return 0, 0, usage(`format: \x needs two hexadecimal digits, such as \x1f`)
	}
	r, _ := utf8.DecodeRuneInString(s[1:])
	return 0, 0, usage(`format: unknown escape \%c; there are \n \t \r \0 \\ \xHH`, r)
}

// parseVerb reads one verb at the beginning of s, which begins with %.
func parseVerb(s string) (part, int, error) {
	if len(s) < 2 {
		return part{}, 0, usage("format: ends in a single %%; write %%%% for one")
	}
	allowed, ok := modifiers[s[1]]
	if !ok {
		r, _ := utf8.DecodeRuneInString(s[1:])
		return part{}, 0, usage("format: unknown verb %%%c; there are %s", r, verbHelp)
	}
	p := part{verb: s[1]}
	// A brace right after a verb is a modifier only where the verb has some: "%p{" is text.
	if len(allowed) == 0 || len(s) < 3 || s[2] != '{' {
		return p, 2, nil
	}
	end := strings.IndexByte(s, '}')
	if end < 0 {
		return part{}, 0, usage("format: %%%c{ is not closed with }", s[1])
	}
	p.modifier = s[3:end]
	if !slices.Contains(allowed, p.modifier) {
		return part{}, 0, usage("format: %%%c{%s}: unknown modifier; there are %s", s[1], p.modifier, strings.Join(allowed, ", "))
	}
	return p, end + 1, nil
}

// append appends a message in this format.
func (f *format) append(b []byte, m *message) []byte {
	for i := range f.parts {
		p := &f.parts[i]
		switch p.verb {
		case 0:
			b = append(b, p.text...)
		case 't':
			b = append(b, m.Topic...)
		case 'k':
			b = appendModified(b, m.Key, p.modifier)
		case 'v':
			b = appendModified(b, m.Body, p.modifier)
		case 'h':
			b = appendHeaderText(b, m, p.modifier)
		case 'p':
			b = append(b, m.Partition...)
		case 'o':
			b = strconv.AppendInt(b, m.Offset, 10)
		case 'd':
			b = appendStamp(b, m, p.modifier)
		case 'a':
			b = strconv.AppendInt(b, int64(m.Attempt), 10)
		case 'i':
			b = append(b, m.ID...)
		case 'g':
			b = append(b, m.Tag...)
		}
	}
	return b
}

func appendModified(b, v []byte, modifier string) []byte {
	switch modifier {
	case "hex":
		return hex.AppendEncode(b, v)
	case "base64":
		return base64.StdEncoding.AppendEncode(b, v)
	case "len":
		return strconv.AppendInt(b, int64(len(v)), 10)
	case "json":
		if v == nil {
			return append(b, "null"...)
		}
		return quoted(b, v)
	default:
		return append(b, v...)
	}
}

// appendHeaderText appends name=value,name=value as kcat does.
func appendHeaderText(b []byte, m *message, modifier string) []byte {
	switch modifier {
	case "json":
		return appendHeaders(b, m.Headers)
	case "len":
		return strconv.AppendInt(b, int64(len(m.Headers)), 10)
	}
	for i, h := range m.Headers {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(append(b, h.Name...), '=')
		b = append(b, h.Value...)
	}
	return b
}

func appendStamp(b []byte, m *message, modifier string) []byte {
	switch modifier {
	case "unix":
		return strconv.AppendInt(b, m.Published.Unix(), 10)
	case "rfc3339":
		return m.Published.UTC().AppendFormat(b, timeFormat)
	default:
		return strconv.AppendInt(b, m.Published.UnixMilli(), 10)
	}
}

// input checks that a format can be read back: verbs must be told apart by text, and only what a message is
// published with can be read.
func (f *format) input() error {
	verbs := 0
	for i, p := range f.parts {
		if p.verb == 0 {
			continue
		}
		verbs++
		if !strings.ContainsRune("kvhpig", rune(p.verb)) {
			return usage("format: %%%c cannot be published; use %%k, %%v, %%h, %%p, %%i and %%g", p.verb)
		}
		if p.modifier == "len" {
			return usage("format: %%%c{len} cannot be read; use hex, base64 or json", p.verb)
		}
		if i+1 < len(f.parts) && f.parts[i+1].verb != 0 {
			return usage("format: %%%c and %%%c stand side by side; put text between them", p.verb, f.parts[i+1].verb)
		}
	}
	if verbs == 0 {
		return usage("format: holds no verb; there are %s", verbHelp)
	}
	if last := f.parts[len(f.parts)-1]; last.verb != 0 {
		f.parts = append(f.parts, part{text: "\n"}) // a message a line
	}
	return nil
}

// String is the format in its own notation.
func (f *format) String() string {
	var b strings.Builder
	for _, p := range f.parts {
		switch {
		case p.verb == 0:
			for i := range len(p.text) {
				fmt.Fprintf(&b, `\x%02x`, p.text[i])
			}
		case p.modifier != "":
			fmt.Fprintf(&b, "%%%c{%s}", p.verb, p.modifier)
		default:
			fmt.Fprintf(&b, "%%%c", p.verb)
		}
	}
	return b.String()
}
