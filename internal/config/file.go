package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"go.yaml.in/yaml/v4"
	"go.yaml.in/yaml/v4/plugin/loaderlimits"
)

// Limits of a configuration file. Ours has two levels and a few dozen keys; what goes far beyond is a mistake or an attack.
const (
	maxFileBytes = 1 << 20
	maxDepth     = 16
	maxAliases   = 64
)

// readFile sets what the file says, and records every fault with its line.
func (l *loader) readFile(path string) {
	data, err := readLimited(path)
	if err != nil {
		l.fault(Fault{Origin: path, Text: err.Error()})
		return
	}
	l.parse(path, data)
}

func readLimited(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		if pe, ok := errors.AsType[*os.PathError](err); ok {
			return nil, fmt.Errorf("cannot be read: %w; check the path and its rights", pe.Err)
		}
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %w; give a file", err)
	}
	if len(data) > maxFileBytes {
		return nil, fmt.Errorf("is larger than %s; a configuration is a few lines", FormatSize(maxFileBytes))
	}
	return data, nil
}

func (l *loader) parse(path string, data []byte) {
	loader, err := yaml.NewLoader(bytes.NewReader(data),
		yaml.WithPlugin(loaderlimits.New(loaderlimits.DepthValue(maxDepth), loaderlimits.AliasValue(maxAliases))))
	if err != nil {
		l.fault(Fault{Origin: path, Text: err.Error()})
		return
	}
	var doc, more yaml.Node
	if err := loader.Load(&doc); err != nil {
		if !errors.Is(err, io.EOF) { // EOF: nothing but comments, so all defaults
			l.fault(syntaxFault(path, err))
		}
		return
	}
	if err := loader.Load(&more); err == nil {
		l.fault(Fault{Origin: fmt.Sprintf("%s:%d", path, more.Line), Text: "a second document begins here; a configuration is one document"})
		return
	} else if !errors.Is(err, io.EOF) {
		l.fault(syntaxFault(path, err))
		return
	}
	if len(doc.Content) == 0 {
		return
	}
	root := resolve(doc.Content[0])
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return
	}
	l.mapping(path, "", root, 0)
}

func syntaxFault(path string, err error) Fault {
	var le *yaml.LoadError
	if errors.As(err, &le) && le.Mark.Line > 0 {
		return Fault{Origin: fmt.Sprintf("%s:%d", path, le.Mark.Line), Text: "not YAML: " + le.Message}
	}
	return Fault{Origin: path, Text: "not YAML: " + strings.TrimPrefix(err.Error(), "yaml: ")}
}

// resolve follows an alias to what it names.
func resolve(n *yaml.Node) *yaml.Node {
	for range maxAliases {
		if n.Kind != yaml.AliasNode || n.Alias == nil {
			break
		}
		n = n.Alias
	}
	return n
}

// mapping walks one level: a scalar or a list belongs to a key, a mapping to a section.
func (l *loader) mapping(path, prefix string, n *yaml.Node, depth int) {
	at := fmt.Sprintf("%s:%d", path, n.Line)
	if n.Kind != yaml.MappingNode || depth > maxDepth {
		l.fault(Fault{Key: strings.TrimSuffix(prefix, "."), Origin: at, Text: "keys and values are expected here (key: value)"})
		return
	}
	seen := make(map[string]int, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, value := n.Content[i], resolve(n.Content[i+1])
		at := fmt.Sprintf("%s:%d", path, name.Line)
		full := prefix + name.Value
		if name.Kind != yaml.ScalarNode {
			l.fault(Fault{Origin: at, Text: "a key must be plain text"})
			continue
		}
		if line, twice := seen[name.Value]; twice {
			l.fault(Fault{Key: full, Origin: at, Text: fmt.Sprintf("stands here twice, first in line %d; keep one", line)})
			continue
		}
		seen[name.Value] = name.Line
		l.entry(path, at, full, value, depth)
	}
}

func (l *loader) entry(path, at, name string, value *yaml.Node, depth int) {
	k := l.byName[name]
	switch {
	case k == nil && l.isSection(name):
		if value.Kind == yaml.ScalarNode && value.Tag == "!!null" {
			return // an empty section, as after commenting out its keys
		}
		l.mapping(path, name+".", value, depth+1)
	case k == nil:
		l.fault(l.unknown(name, at))
	case value.Kind == yaml.ScalarNode && value.Tag == "!!null" && value.Value == "":
		l.fault(Fault{Key: name, Origin: at, Text: "has no value; allowed: " + k.allowed})
	case value.Kind == yaml.ScalarNode:
		l.set(name, []string{value.Value}, at)
	case value.Kind == yaml.SequenceNode && k.isList:
		l.sequence(k, at, value)
	default:
		l.fault(Fault{Key: name, Origin: at, Text: "is a " + k.kind + ", not " + kindName(value.Kind) + "; allowed: " + k.allowed})
	}
}

func (l *loader) sequence(k *key, at string, list *yaml.Node) {
	elements := make([]string, 0, len(list.Content))
	for _, e := range list.Content {
		e = resolve(e)
		if e.Kind != yaml.ScalarNode {
			l.fault(Fault{Key: k.name, Origin: at, Text: "has an element that is not plain text; allowed: " + k.allowed})
			return
		}
		elements = append(elements, e.Value)
	}
	l.set(k.name, elements, at)
}

func (l *loader) isSection(name string) bool {
	for _, k := range l.keys {
		if strings.HasPrefix(k.name, name+".") {
			return true
		}
	}
	return false
}

func kindName(k yaml.Kind) string {
	switch k {
	case yaml.MappingNode:
		return "a section"
	case yaml.SequenceNode:
		return "a list"
	default:
		return "this"
	}
}
