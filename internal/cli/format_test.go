package cli

import (
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-mq/sluice/sdk/go"
)

var sample = message{
	ID: "m1", Key: []byte("k"), Body: []byte("héllo\x00"), Tag: "paid", Topic: "orders", Cluster: "c", Partition: "broker-1/3",
	Offset: 42, Attempt: 2, Published: time.UnixMilli(1_700_000_000_123),
	Headers: []sluice.Header{{Name: "a", Value: []byte("1")}, {Name: "b", Value: []byte{0xff}}, {Name: "a", Value: []byte("2")}},
}

func TestFormatPrints(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		`%t/%p@%o %k=%v\n`:         "orders/broker-1/3@42 k=héllo\x00\n",
		`%v{hex} %k{base64}`:       "68c3a96c6c6f00 aw==",
		`%v{json}|%v{len}|%k{len}`: `"héllo\u0000"|7|1`,
		`%h`:                       "a=1,b=\xff,a=2",
		`%h{json}`:                 `{"a":["1","2"],"b":{"base64":"/w=="}}`,
		`%h{len}`:                  "3",
		`%d %d{unix} %d{rfc3339}`:  "1700000000123 1700000000 2023-11-14T22:13:20.123Z",
		`%a %i %g 100%%`:           "2 m1 paid 100%",
		`\t\r\0\\\x41%%v`:          "\t\r\x00\\A%v",
		`%p{x}`:                    "broker-1/3{x}", // partitions have no modifiers: this is text
		``:                         "",
	} {
		f, err := parseFormat(in)
		if err != nil {
			t.Errorf("%q: %v", in, err)
			continue
		}
		if got := string(f.append(nil, &sample)); got != want {
			t.Errorf("%q prints %q, want %q", in, got, want)
		}
	}
}

func TestFormatErrorsSayWhatThereIs(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		`%q`: "unknown verb %q", `%`: "single %", `\`: "single \\", `\y`: `unknown escape \y`, `\xg1`: "two hexadecimal",
		`%v{rot13}`: "there are hex, base64, json, len", `%v{hex`: "not closed", strings.Repeat("a", 5000): "at most 4096",
	} {
		_, err := parseFormat(in)
		if err == nil || !strings.Contains(err.Error(), want) || !isUsage(err) {
			t.Errorf("%.20q: %v, want %q as wrong usage", in, err, want)
		}
	}
}

// readAll reads messages until the source ends.
func readAll(s source) (out []sluice.Message, err error) {
	for {
		m, err := s.next()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return out, err
		}
		out = append(out, m)
	}
}

func TestFormatReadsBack(t *testing.T) {
	t.Parallel()
	f, err := parseFormat(`%k{hex}:%v|%h|%g\n`)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.input(); err != nil {
		t.Fatal(err)
	}
	got, err := readAll(&formatted{r: newReader(strings.NewReader("6b:two\nlines|a=1,b=2|paid\n:||")), f: f})
	if err != nil {
		t.Fatal(err)
	}
	want := []sluice.Message{
		{Key: []byte("k"), Body: []byte("two\nlines"), Tag: "paid", HeaderList: []sluice.Header{{Name: "a", Value: []byte("1")}, {Name: "b", Value: []byte("2")}}},
		{Key: []byte{}, Body: []byte{}},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if _, err := readAll(&formatted{r: newReader(strings.NewReader("6b:cut off")), f: f}); err == nil {
		t.Error("took a message that was cut off")
	}
	for in, want := range map[string]string{`%k%v`: "side by side", `%o %v`: "cannot be published", `abc`: "no verb", `%v{len}`: "cannot be read"} {
		f, err := parseFormat(in)
		if err == nil {
			err = f.input()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", in, err, want)
		}
	}
}

func TestLinesKeepWhatTheyHold(t *testing.T) {
	t.Parallel()
	got, err := readAll(&lines{r: newReader(strings.NewReader("a\n\nb\r\nlast")), base: sluice.Message{Tag: "t"}})
	if err != nil {
		t.Fatal(err)
	}
	var bodies []string
	for _, m := range got {
		if m.Body == nil || m.Tag != "t" || m.Key != nil {
			t.Errorf("%+v", m)
		}
		bodies = append(bodies, string(m.Body))
	}
	if d := cmp.Diff([]string{"a", "", "b", "last"}, bodies); d != "" {
		t.Error(d)
	}
	got, err = readAll(&lines{r: newReader(strings.NewReader("k:v:w\n:x\n")), keyDelim: ":"})
	if err != nil || len(got) != 2 || string(got[0].Key) != "k" || string(got[0].Body) != "v:w" || got[1].Key == nil {
		t.Errorf("%+v, %v", got, err)
	}
	_, err = readAll(&lines{r: newReader(strings.NewReader("k:v\nnokey\n")), keyDelim: ":"})
	if err == nil || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("missing delimiter: %v", err)
	}
	if _, err := readAll(&lines{r: newReader(strings.NewReader(strings.Repeat("x", maxInputBytes+2)))}); err == nil || !strings.Contains(err.Error(), "4 MiB") {
		t.Errorf("endless line: %v", err)
	}
}

func TestJSONLines(t *testing.T) {
	t.Parallel()
	got, err := readAll(&jsonLines{r: newReader(strings.NewReader(`
{"key":"k","body":"b","headers":{"h":"1","x":["2",{"base64":"/w=="}]},"tag":"t","id":"i","partition":"3"}
{"body_base64":"AP8="}
{"body":""}
{"body":null,"key":""}
`)), base: sluice.Message{Tag: "base"}})
	if err != nil {
		t.Fatal(err)
	}
	want := []sluice.Message{
		{ID: "i", Key: []byte("k"), Body: []byte("b"), Tag: "t", Partition: "3", HeaderList: []sluice.Header{{Name: "h", Value: []byte("1")}, {Name: "x", Value: []byte("2")}, {Name: "x", Value: []byte{0xff}}}},
		{Body: []byte{0, 0xff}, Tag: "base"},
		{Body: []byte{}, Tag: "base"},
		{Key: []byte{}, Tag: "base"},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	for in, want := range map[string]string{
		`{"boody":"x"}`: "unknown field /boody", `{"body":1}`: "/body", `[1]`: "line 1", `{"body":"a","body":"b"}`: "duplicate",
		`{"body":"a","body_base64":"YQ=="}`: "one of them", `{"body_base64":"?"}`: "base64", `{"delay_ms":5}`: "delay", `{"headers":{"a":1}}`: "header",
		`not json`: "line 1",
	} {
		_, err := readAll(&jsonLines{r: newReader(strings.NewReader(in))})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", in, err, want)
		}
	}
}

func TestMessageAsJSON(t *testing.T) {
	t.Parallel()
	m := sample
	m.Body, m.Key, m.Delivered = []byte{0xff}, nil, m.Published
	const want = `{"id":"m1","key":null,"body_base64":"/w==","headers":{"a":["1","2"],"b":{"base64":"/w=="}},"tag":"paid","topic":"orders",` +
		`"cluster":"c","partition":"broker-1/3","offset":"42","attempt":2,"published_at":"2023-11-14T22:13:20.123Z","delivered_at":"2023-11-14T22:13:20.123Z"}`
	if d := cmp.Diff(want, string(m.appendJSON(nil))); d != "" {
		t.Error(d)
	}
}

func FuzzFormat(f *testing.F) {
	f.Add(`%k %v\n`, "a b\nc d\n")
	f.Add(`%v{hex}|%h{json}`, "zz|{}")
	f.Add(`x%p%%\x00%i`, "x1%\x00")
	f.Fuzz(func(t *testing.T, in, data string) {
		parsed, err := parseFormat(in)
		if err != nil {
			return
		}
		_ = parsed.append(nil, &sample)
		again, err := parseFormat(parsed.String())
		if err != nil {
			t.Fatalf("%q became %q: %v", in, parsed, err)
		}
		if d := cmp.Diff(string(parsed.append(nil, &sample)), string(again.append(nil, &sample))); d != "" {
			t.Error(d)
		}
		if parsed.input() != nil {
			return
		}
		s := &formatted{r: newReader(strings.NewReader(data)), f: parsed}
		for range len(data) + 2 { // a reader that makes no progress would go on for ever
			if _, err := s.next(); err != nil {
				return
			}
		}
		t.Errorf("%q reads %q without end", in, data)
	})
}

func FuzzJSONLine(f *testing.F) {
	f.Add(`{"key":"k","headers":{"a":["x"]}}`)
	f.Add(`{"headers":{"a":{"base64":"!"}}}`)
	f.Fuzz(func(_ *testing.T, line string) {
		_, _ = parseJSON([]byte(line), sluice.Message{}) // must not panic
	})
}
