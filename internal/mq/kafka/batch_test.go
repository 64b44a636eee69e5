package kafka

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"

	"github.com/sluice-mq/sluice/internal/mq"
)

func records(headers bool) *rapid.Generator[[]mq.Record] {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) mq.Record {
		nullable := rapid.OneOf(rapid.Just([]byte(nil)), rapid.SliceOfN(rapid.Byte(), 0, 300))
		r := mq.Record{
			Key: nullable.Draw(t, "key"), Body: nullable.Draw(t, "body"),
			Timestamp: time.UnixMilli(rapid.Int64Range(1, 4e12).Draw(t, "time")),
		}
		if headers {
			r.Tag = rapid.StringN(0, 5, 20).Draw(t, "tag")
			for range rapid.IntRange(0, 3).Draw(t, "headers") {
				r.Headers = append(r.Headers, mq.Header{Name: rapid.StringN(0, 5, 20).Draw(t, "name"), Value: nullable.Draw(t, "value")})
			}
		}
		return r
	}), 1, 20)
}

func TestBatchesDecodeToWhatTheyWereMadeOf(t *testing.T) {
	t.Parallel()
	cl, err := kgo.NewClient(kgo.SeedBrokers("127.0.0.1:1"))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	dec := newDecoder(cl, 16<<20)
	for name, codec := range codecs {
		t.Run(name, func(t *testing.T) {
			var comp kgo.Compressor
			if codec != nil {
				if comp, err = kgo.DefaultCompressor(codec()); err != nil {
					t.Fatal(err)
				}
			}
			rapid.Check(t, func(t *rapid.T) {
				rs := records(true).Draw(t, "records")
				it := &item{records: rs}
				got := appendBatch([]byte("before"), []span{{it, 0, len(rs)}}, ident{pid: 5, epoch: 1, seq: 7}, time.Now(), comp, nil)[6:]
				bound := batchHead
				for i := range rs {
					bound += recordBytes(&rs[i])
				}
				if comp == nil && len(got) > bound {
					t.Fatalf("the batch takes %d bytes, recordBytes promised at most %d", len(got), bound)
				}
				same(t, dec, got, rs)
			})
		})
	}
}

func TestMessageSetsDecodeToWhatTheyWereMadeOf(t *testing.T) {
	t.Parallel()
	cl, err := kgo.NewClient(kgo.SeedBrokers("127.0.0.1:1"))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	rapid.Check(t, func(t *rapid.T) {
		rs := records(false).Draw(t, "records")
		same(t, newDecoder(cl, 16<<20), appendMessageSet(nil, []span{{&item{records: rs}, 0, len(rs)}}, time.Now()), rs)
	})
}

func same(t *rapid.T, dec decoder, encoded []byte, rs []mq.Record) {
	t.Helper()
	got, next, err := dec.decode(first, 0, &kmsg.FetchResponseTopicPartition{RecordBatches: encoded})
	if err != nil || next != int64(len(rs)) {
		t.Fatalf("next %d, err %v", next, err)
	}
	for i := range rs {
		if (got[i].Key == nil) != (rs[i].Key == nil) || (got[i].Body == nil) != (rs[i].Body == nil) {
			t.Fatalf("record %d: null and empty were mixed up", i)
		}
	}
	ignore := cmpopts.IgnoreFields(mq.Record{}, "Offset")
	if diff := cmp.Diff(rs, got, ignore, cmpopts.EquateEmpty()); diff != "" {
		t.Fatal(diff)
	}
}

func FuzzDecode(f *testing.F) {
	cl, err := kgo.NewClient(kgo.SeedBrokers("127.0.0.1:1"))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(cl.Close)
	dec := newDecoder(cl, 1<<20)
	it := &item{records: []mq.Record{{Key: []byte("k"), Body: []byte("body"), Headers: []mq.Header{{Name: "h", Value: []byte("v")}}}, {}}}
	spans := []span{{it, 0, 2}}
	at := time.UnixMilli(1700000000000)
	f.Add(appendBatch(nil, spans, ident{pid: -1, epoch: -1, seq: -1}, at, nil, nil), int64(0))
	f.Add(appendMessageSet(nil, spans[:1], at), int64(1))
	for _, codec := range []kgo.CompressionCodec{kgo.GzipCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression()} {
		comp, err := kgo.DefaultCompressor(codec)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(appendBatch(nil, spans, ident{}, at, comp, nil), int64(0))
	}
	f.Fuzz(func(t *testing.T, b []byte, offset int64) {
		if offset < 0 {
			t.Skip()
		}
		_, next, derr := dec.decode(first, offset, &kmsg.FetchResponseTopicPartition{RecordBatches: b})
		if derr == nil && next < offset {
			t.Fatalf("next %d is before the asked offset %d", next, offset)
		}
	})
}
