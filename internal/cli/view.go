package cli

import (
	"encoding/base64"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// view turns an answer of the admin API into what is printed as JSON and YAML: fields by their names in the proto, in
// its order; enums in lower case without their prefix; offsets as strings, since they pass 2^53; `..._at_ms` as
// RFC 3339; hashes and sealed secrets left out.
func view(m proto.Message) object { return viewMessage(m.ProtoReflect()) }

func viewMessage(m protoreflect.Message) object {
	fields := m.Descriptor().Fields()
	o := make(object, 0, fields.Len())
	for i := range fields.Len() {
		fd := fields.Get(i)
		name := string(fd.Name())
		if hiddenField(name) || fd.HasPresence() && !m.Has(fd) {
			continue
		}
		v := m.Get(fd)
		switch {
		case fd.IsMap():
			o = append(o, field{name, viewMap(v.Map())})
		case fd.IsList():
			o = append(o, field{name, viewList(fd, v.List())})
		case strings.HasSuffix(name, "_at_ms"):
			o = append(o, field{strings.TrimSuffix(name, "_ms"), viewTime(v.Int())})
		case fd.Kind() == protoreflect.BytesKind:
			o = append(o, viewBytes(name, v.Bytes()))
		default:
			o = append(o, field{name, viewValue(fd, v)})
		}
	}
	return o
}

// hiddenField names what no screen needs: hashes and ciphertexts, and receipts, which are capabilities.
func hiddenField(name string) bool {
	return name == "hash" || name == "receipt" || strings.HasPrefix(name, "sealed_")
}

func viewMap(m protoreflect.Map) map[string]string {
	out := make(map[string]string, m.Len())
	m.Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
		out[k.String()] = v.String()
		return true
	})
	return out
}

func viewList(fd protoreflect.FieldDescriptor, l protoreflect.List) any {
	if fd.Kind() == protoreflect.MessageKind {
		out := make([]object, l.Len())
		for i := range l.Len() {
			out[i] = viewMessage(l.Get(i).Message())
		}
		return out
	}
	out := make([]string, l.Len())
	for i := range l.Len() {
		out[i] = l.Get(i).String()
	}
	return out
}

func viewValue(fd protoreflect.FieldDescriptor, v protoreflect.Value) any {
	switch fd.Kind() {
	case protoreflect.MessageKind:
		return viewMessage(v.Message())
	case protoreflect.EnumKind:
		return enumName(fd.Enum(), v.Enum())
	case protoreflect.Int64Kind:
		if isOffset(string(fd.Name())) {
			return v.String()
		}
		return v.Int()
	default:
		return v.Interface()
	}
}

func isOffset(name string) bool {
	return strings.HasSuffix(name, "offset") || name == "committed" || name == "fetched" || name == "high_watermark"
}

// enumName is ORDER_KEY of Order as "key"; the unspecified value is "".
func enumName(ed protoreflect.EnumDescriptor, n protoreflect.EnumNumber) string {
	v := ed.Values().ByNumber(n)
	if v == nil || n == 0 {
		return ""
	}
	return strings.ToLower(strings.TrimPrefix(string(v.Name()), strings.ToUpper(string(ed.Name()))+"_"))
}

// viewBytes shows text as text and the rest as NAME_base64.
func viewBytes(name string, b []byte) field {
	if b == nil {
		return field{name, nil}
	}
	if utf8.Valid(b) {
		return field{name, string(b)}
	}
	return field{name + "_base64", base64.StdEncoding.EncodeToString(b)}
}

func viewTime(ms int64) any {
	if ms == 0 {
		return nil
	}
	return time.UnixMilli(ms).UTC().Format(timeFormat)
}

// timeFormat is RFC 3339 with milliseconds, in UTC.
const timeFormat = "2006-01-02T15:04:05.000Z07:00"
