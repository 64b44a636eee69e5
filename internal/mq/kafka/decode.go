package kafka

import (
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluice-mq/sluice/internal/mq"
)

// decoder turns fetched bytes into records: transactions that were aborted are left out, batches that would
// grow beyond Config.MaxBatch are refused.
type decoder struct {
	decompressor kgo.Decompressor
	maxBatch     int
}

func newDecoder(cl *kgo.Client, maxBatch int) decoder {
	// The client's decompressor has its limit; one made by kgo.DefaultDecompressor would have none.
	dec, _ := cl.OptValue(kgo.WithDecompressor).(kgo.Decompressor)
	if dec == nil {
		dec = kgo.DefaultDecompressor()
	}
	return decoder{decompressor: dec, maxBatch: maxBatch}
}

// decode reads the records of p from offset on. next passes gaps; err tells of a batch that cannot be read, at next.
func (d decoder) decode(p mq.PartitionID, offset int64, rp *kmsg.FetchResponseTopicPartition) (records []mq.Record, next int64, err *mq.Error) {
	opts := kgo.ProcessFetchPartitionOpts{
		Offset: offset, IsolationLevel: kgo.ReadCommitted(), Topic: string(p.Topic), Partition: p.Index,
	}
	code := rp.ErrorCode
	rp.ErrorCode = 0
	fp, next := kgo.ProcessFetchPartition(opts, rp, d.decompressor, nil)
	rp.ErrorCode = code
	records = make([]mq.Record, len(fp.Records))
	for i, r := range fp.Records {
		records[i] = recordOf(r)
	}
	if fp.Err == nil {
		return records, next, nil
	}
	if len(records) > 0 {
		// What was read is delivered first; the broken batch is met again at next.
		return records, next, nil
	}
	return nil, next, d.broken(p, next, fp.Err)
}

// broken describes a batch that cannot be read. Its Msg names the offsets, so that the reader can go on after them.
func (d decoder) broken(p mq.PartitionID, at int64, cause error) *mq.Error {
	if big, ok := errors.AsType[*kgo.ErrDecompressTooLarge](cause); ok {
		return &mq.Error{
			Class: mq.TooLarge, Cause: &BrokenBatch{From: big.Offset, Next: big.NextOffset},
			Msg: fmt.Sprintf("topic %s, partition %s: the batch at offsets %d to %d decompresses to more than %d bytes",
				p.Topic, p, big.Offset, big.NextOffset-1, d.maxBatch),
		}
	}
	return &mq.Error{
		Class: mq.Invalid, Cause: &BrokenBatch{From: at, Next: at + 1, Err: cause},
		Msg: fmt.Sprintf("topic %s, partition %s: the batch at offset %d cannot be read", p.Topic, p, at),
	}
}

// BrokenBatch is the cause of a Fetch error of class TooLarge or Invalid: the records of [From, Next) cannot be
// read. Whoever decides to leave them out fetches from Next.
type BrokenBatch struct {
	From, Next int64
	Err        error // nil: too large when decompressed
}

// Error implements error.
func (b *BrokenBatch) Error() string {
	s := fmt.Sprintf("offsets %d to %d", b.From, b.Next-1)
	if b.Err != nil {
		s += ": " + b.Err.Error()
	}
	return s
}

// Range is [From, Next), for callers that do not import this package.
func (b *BrokenBatch) Range() (from, next int64) { return b.From, b.Next }

func recordOf(r *kgo.Record) mq.Record {
	rec := mq.Record{Key: r.Key, Body: r.Value, Offset: r.Offset, Timestamp: r.Timestamp}
	if len(r.Headers) == 0 {
		return rec
	}
	rec.Headers = make([]mq.Header, 0, len(r.Headers))
	for i := range r.Headers {
		h := &r.Headers[i]
		if h.Key == tagHeader && rec.Tag == "" {
			rec.Tag = string(h.Value)
			continue
		}
		rec.Headers = append(rec.Headers, mq.Header{Name: h.Key, Value: h.Value})
	}
	if len(rec.Headers) == 0 {
		rec.Headers = nil
	}
	return rec
}
