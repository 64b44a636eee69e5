package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"go.yaml.in/yaml/v4"
)

// object is a JSON object whose fields keep their order.
type object []field

// field is one field of an object.
type field struct {
	name  string
	value any
}

// MarshalJSON implements json.Marshaler.
func (o object) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, f := range o {
		if i > 0 {
			b.WriteByte(',')
		}
		name, err := json.Marshal(f.name)
		if err != nil {
			return nil, err
		}
		b.Write(name)
		b.WriteByte(':')
		value, err := json.Marshal(f.value)
		if err != nil {
			return nil, err
		}
		b.Write(value)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// MarshalYAML keeps the order of the fields.
func (o object) MarshalYAML() (any, error) {
	n := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	for _, f := range o {
		var value yaml.Node
		if err := value.Encode(f.value); err != nil {
			return nil, err
		}
		n.Content = append(n.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: f.name}, &value)
	}
	return n, nil
}

// listing is a list of things: a row for people and an object for programs each.
type listing struct {
	head    []string
	rows    [][]string
	objects []object
}

func (l *listing) add(o object, row ...string) {
	l.objects = append(l.objects, o)
	l.rows = append(l.rows, row)
}

// list prints a list: a table, one JSON array or one YAML list.
func (a *app) list(l listing) error {
	if l.objects == nil {
		l.objects = []object{} // [] and not null
	}
	return a.print(l.objects, func(w io.Writer) error { return table(w, l.head, l.rows) })
}

// print prints one thing; human writes it for people.
func (a *app) print(v any, human func(io.Writer) error) error {
	switch a.output {
	case "json":
		return json.NewEncoder(a.Out).Encode(v)
	case "yaml":
		text, err := yaml.Dump(v)
		if err != nil {
			return fmt.Errorf("output: %w", err)
		}
		_, err = a.Out.Write(text)
		return err
	default:
		return human(a.Out)
	}
}

// describeTable prints names and values below each other.
func describeTable(w io.Writer, o object) error {
	rows := make([][]string, 0, len(o))
	for _, f := range o {
		if s := plain(f.value); s != "" {
			rows = append(rows, []string{strings.ReplaceAll(f.name, "_", " ") + ":", s})
		}
	}
	return table(w, nil, rows)
}

// plain shows a value in a table; what is no scalar is left to the tables of its own.
func plain(v any) string {
	switch v := v.(type) {
	case nil, object, []object:
		return ""
	case []string:
		return strings.Join(v, ", ")
	case bool:
		return mark(v)
	case string:
		return clean(v)
	default:
		return clean(fmt.Sprint(v))
	}
}

// table writes aligned columns. Control characters are shown as escapes: names of topics and groups on foreign
// clusters may hold anything, and a terminal obeys it.
func table(w io.Writer, head []string, rows [][]string) error {
	tw := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	if head != nil {
		fmt.Fprintln(tw, strings.Join(head, "\t"))
	}
	for _, row := range rows {
		cells := make([]string, len(row))
		for i, c := range row {
			cells[i] = clean(c)
		}
		fmt.Fprintln(tw, strings.TrimRight(strings.Join(cells, "\t"), "\t "))
	}
	return tw.Flush()
}

// clean escapes what a terminal would obey.
func clean(s string) string {
	if strings.IndexFunc(s, isControl) < 0 {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if isControl(r) {
			fmt.Fprintf(&b, `\x%02x`, r)
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}

func isControl(r rune) bool { return r < 0x20 || r >= 0x7f && r < 0xa0 }
