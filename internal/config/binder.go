package config

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Whether a text may be empty.
const (
	optional = true
	required = false
)

// key is one setting: how it reads text, how it shows its value.
type key struct {
	name, kind, allowed, doc string
	isSecret, isList         bool
	reloads                  bool

	// set takes one value as written; list keys take the elements.
	set func(values []string) error
	get func() string

	byDefault string // what get said before anything was set
	origin    string
}

// reload marks a key that SIGHUP takes over.
func (k *key) reload() { k.reloads = true }

// env is the name of the key's environment variable.
func (k *key) env() string {
	return EnvPrefix + strings.ToUpper(strings.ReplaceAll(k.name, ".", "_"))
}

// binder collects keys; each method binds one kind of value.
type binder struct{ keys []*key }

func (b *binder) add(k *key) *key {
	k.byDefault = k.get()
	k.origin = OriginDefault
	b.keys = append(b.keys, k)
	return k
}

// single adds a key of one value.
func (b *binder) single(name, kind, allowed, doc string, get func() string, set func(string) error) *key {
	return b.add(&key{name: name, kind: kind, allowed: allowed, doc: doc, get: get, set: func(vs []string) error {
		if len(vs) != 1 {
			return errors.New("is a list")
		}
		return set(vs[0])
	}})
}

func (b *binder) text(name string, p *string, empty bool, doc string) *key {
	allowed := "text"
	if !empty {
		allowed = "text, not empty"
	}
	return b.single(name, "text", allowed, doc, func() string { return *p }, func(v string) error {
		if v == "" && !empty {
			return errors.New("is empty")
		}
		*p = v
		return nil
	})
}

func (b *binder) secret(name string, p *string, doc string) *key {
	k := b.text(name, p, optional, doc)
	k.kind, k.isSecret = "secret", true
	return k
}

func (b *binder) name(name string, p *string, doc string) *key {
	const allowed = "1 to 128 letters, digits, '.', '_' and '-'"
	return b.single(name, "name", allowed, doc, func() string { return *p }, func(v string) error {
		if len(v) > 128 || strings.Trim(v, nameChars) != "" || v == "." || v == ".." {
			return errors.New("is not a name")
		}
		*p = v
		return nil
	})
}

const nameChars = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"

func (b *binder) boolean(name string, p *bool, doc string) *key {
	return b.single(name, "bool", "true or false", doc, func() string { return strconv.FormatBool(*p) }, func(v string) error {
		switch v {
		case "true":
			*p = true
		case "false":
			*p = false
		default:
			return errors.New("is neither true nor false")
		}
		return nil
	})
}

func (b *binder) enum(name string, p *string, values []string, doc string) *key {
	return b.single(name, "one of", strings.Join(values, ", "), doc, func() string { return *p }, func(v string) error {
		if !slices.Contains(values, v) {
			return errors.New("is not one of them")
		}
		*p = v
		return nil
	})
}

func (b *binder) integer(name string, p *int, least, most int, doc string) *key {
	allowed := fmt.Sprintf("a whole number from %d to %d", least, most)
	return b.single(name, "int", allowed, doc, func() string { return strconv.Itoa(*p) }, func(v string) error {
		n, err := strconv.Atoi(v)
		if err != nil {
			return errors.New("is not a whole number")
		}
		if n < least || n > most {
			return errors.New("is out of range")
		}
		*p = n
		return nil
	})
}

func (b *binder) fraction(name string, p *float64, doc string) *key {
	return b.single(name, "fraction", "a number from 0 to 1", doc, func() string { return strconv.FormatFloat(*p, 'g', -1, 64) }, func(v string) error {
		f, err := strconv.ParseFloat(v, 64)
		if err != nil {
			return errors.New("is not a number")
		}
		if !(f >= 0 && f <= 1) { // also refuses NaN
			return errors.New("is out of range")
		}
		*p = f
		return nil
	})
}

func (b *binder) duration(name string, p *time.Duration, least, most time.Duration, doc string) *key {
	allowed := fmt.Sprintf("a duration from %s to %s, such as 500ms, 10s, 5m", short(least), short(most))
	return b.single(name, "duration", allowed, doc, func() string { return short(*p) }, func(v string) error {
		d, err := time.ParseDuration(v)
		if err != nil {
			return errors.New("is not a duration")
		}
		if d < least || d > most {
			return errors.New("is out of range")
		}
		*p = d
		return nil
	})
}

// size binds a number of bytes, of any integer type that the packages use for it.
func size[T int | int64 | uint64 | int32](b *binder, name string, p *T, least, most int64, doc string) *key {
	allowed := fmt.Sprintf("a size from %s to %s, such as 512KiB, 4MiB, 10GiB", FormatSize(least), FormatSize(most))
	return b.single(name, "size", allowed, doc, func() string { return FormatSize(int64(*p)) }, func(v string) error {
		n, err := ParseSize(v)
		if err != nil {
			return errors.New("is not a size")
		}
		if n < least || n > most {
			return errors.New("is out of range")
		}
		*p = T(n)
		return nil
	})
}

func (b *binder) address(name string, p *string, empty bool, doc string) *key {
	return b.single(name, "address", "host:port", doc, func() string { return *p }, func(v string) error {
		if v == "" && empty {
			*p = v
			return nil
		}
		if err := checkAddress(v); err != nil {
			return err
		}
		*p = v
		return nil
	})
}

func (b *binder) list(name, kind, allowed, doc string, get func() []string, set func([]string) error) *key {
	return b.add(&key{
		name: name, kind: kind, allowed: allowed, doc: doc, isList: true,
		get: func() string { return strings.Join(get(), ",") },
		set: func(vs []string) error {
			var elements []string
			for _, v := range vs {
				for e := range strings.SplitSeq(v, ",") {
					if e = strings.TrimSpace(e); e != "" {
						elements = append(elements, e)
					}
				}
			}
			return set(elements)
		},
	})
}

func (b *binder) addresses(name string, p *[]string, doc string) *key {
	return b.list(name, "list of addresses", "host:port, several in a list or with commas", doc, func() []string { return *p }, func(vs []string) error {
		for _, v := range vs {
			if err := checkAddress(v); err != nil {
				return err
			}
		}
		*p = vs
		return nil
	})
}

func (b *binder) roles(name string, p *Roles, doc string) *key {
	return b.list(name, "list", "producer, consumer, control; at least one", doc, func() []string { return *p }, func(vs []string) error {
		if len(vs) == 0 {
			return errors.New("is empty")
		}
		var roles Roles
		for _, v := range vs {
			if v != Producer && v != Consumer && v != Control {
				return fmt.Errorf("has the unknown role %q", v)
			}
			if !roles.Has(v) {
				roles = append(roles, v)
			}
		}
		*p = roles
		return nil
	})
}

func checkAddress(v string) error {
	_, port, err := net.SplitHostPort(v)
	if err != nil {
		return errors.New("is not host:port")
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		return errors.New("has no port from 0 to 65535")
	}
	return nil
}

// short writes 5m0s as 5m.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

var units = []struct {
	name  string
	bytes int64
}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}}

// ParseSize reads a number of bytes: a plain number, or one with B, KiB, MiB, GiB or TiB.
func ParseSize(s string) (int64, error) {
	unit := int64(1)
	for _, u := range units {
		if rest, ok := strings.CutSuffix(s, u.name); ok {
			s, unit = strings.TrimSpace(rest), u.bytes
			break
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n > (1<<62)/unit {
		return 0, fmt.Errorf("%q is not a size such as 512KiB or 4MiB", s)
	}
	return n * unit, nil
}

// FormatSize writes bytes in the largest unit that fits without a rest.
func FormatSize(n int64) string {
	for _, u := range units {
		if n >= u.bytes && n%u.bytes == 0 {
			return strconv.FormatInt(n/u.bytes, 10) + u.name
		}
	}
	return strconv.FormatInt(n, 10)
}
