package embedded

import (
	"bytes"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/sluice-mq/sluice/internal/mq"
)

func drawBytes(t *rapid.T, name string) []byte {
	if rapid.Bool().Draw(t, name+" is nil") {
		return nil
	}
	return rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, name)
}

func TestRecordsRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		appended := rapid.Int64Range(0, 1<<42).Draw(t, "appended")
		want := make([]mq.Record, rapid.IntRange(1, 5).Draw(t, "n"))
		var value []byte
		for i := range want {
			r := &want[i]
			r.Key, r.Body, r.Tag = drawBytes(t, "key"), drawBytes(t, "body"), rapid.StringN(0, 5, 20).Draw(t, "tag")
			for range rapid.IntRange(0, 3).Draw(t, "headers") {
				r.Headers = append(r.Headers, mq.Header{Name: rapid.StringN(0, 5, 20).Draw(t, "name"), Value: drawBytes(t, "value")})
			}
			at := rapid.Int64Range(-1<<42, 1<<42).Draw(t, "time")
			r.Timestamp = time.UnixMilli(at)
			value = appendRecord(value, r, at, appended)
		}
		d := decoder{rest: value, appended: appended}
		for i := range want {
			got, err := d.next()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want[i], got); diff != "" {
				t.Fatal(diff)
			}
		}
		if len(d.rest) != 0 {
			t.Fatalf("%d bytes are left", len(d.rest))
		}
	})
}

// FuzzBatch: whatever the bytes, no panic and no more memory than they justify.
func FuzzBatch(f *testing.F) {
	r := mq.Record{Key: []byte("k"), Body: []byte("b"), Tag: "t", Headers: []mq.Header{{Name: "a", Value: []byte{}}, {Name: "b"}}}
	good := appendRecord(appendHeader(nil, header{count: 1, appended: 1000, maxTime: 1000, sum: 50}), &r, 1000, 1000)
	f.Add(good)
	f.Add(good[:len(good)-3])
	f.Add(append(bytes.Clone(good[:headerLen]), hasHeaders, 0, 0xff, 0xff, 0xff, 0x7f))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, value []byte) {
		h, err := decodeHeader(value)
		if err != nil {
			return
		}
		d := decoder{rest: value[headerLen:], appended: h.appended}
		for range h.count {
			r, err := d.next()
			if err != nil {
				return
			}
			at := r.Timestamp.UnixMilli()
			again := decoder{rest: appendRecord(nil, &r, at, h.appended), appended: h.appended}
			back, err := again.next()
			if err != nil || !cmp.Equal(r, back) {
				t.Fatalf("encoded again: %v %s", err, cmp.Diff(r, back))
			}
		}
	})
}
