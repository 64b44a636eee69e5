package kafka

import (
	"context"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluice-mq/sluice/internal/mq"
)

// readPoll is the longest poll of a Reader: the reads of one broker share a connection, and wait for each other.
const readPoll = 250 * time.Millisecond

// reader fetches single partitions, without buffers that would outlive a call. It implements mq.Reader.
type reader struct {
	d *Driver

	mu  sync.Mutex // guards the rest
	cl  *kgo.Client
	dec decoder
}

func newReader(d *Driver) *reader { return &reader{d: d} }

// client is made when the first read comes, so that nodes that never read hold no connections for it.
func (r *reader) client() (*kgo.Client, decoder, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.d.isClosed() {
		return nil, decoder{}, errClosed()
	}
	if r.cl == nil {
		cl, err := r.d.client(r.d.cfg.RequestOverhead)
		if err != nil {
			return nil, decoder{}, err
		}
		r.cl, r.dec = cl, newDecoder(cl, r.d.cfg.MaxBatch)
	}
	return r.cl, r.dec, nil
}

func (r *reader) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cl != nil {
		r.cl.Close()
	}
}

// Offsets implements mq.Reader.
func (r *reader) Offsets(ctx context.Context, ps []mq.PartitionID, at mq.Start) (map[mq.PartitionID]int64, error) {
	return r.d.offsets(ctx, ps, at)
}

// Fetch implements mq.Reader.
func (r *reader) Fetch(ctx context.Context, p mq.PartitionID, offset int64, l mq.Limits) (mq.Batch, error) {
	cl, dec, err := r.client()
	if err != nil {
		return mq.Batch{}, err
	}
	end := time.Now().Add(l.MaxWait)
	one := read{d: r.d, cl: cl, dec: dec, p: p, offset: offset, limits: l, max: int32(min(max(l.MaxBytes, 4096), r.d.cfg.FetchBytes))}
	if l.MaxBytes == 0 {
		one.max = int32(r.d.cfg.FetchBytes)
	}
	for {
		wait := min(max(time.Until(end), 0), readPoll)
		b, done, err := one.once(ctx, wait)
		if done || err != nil && !retriable(err) {
			return b, err
		}
		if ctx.Err() != nil {
			return mq.Batch{}, fetchTimeout(p, ctx, nil)
		}
		if time.Now().After(end) {
			return b, err
		}
		if err != nil {
			select {
			case <-time.After(fetchPause):
			case <-ctx.Done():
			}
		}
	}
}

// read is one call of Fetch.
type read struct {
	d      *Driver
	cl     *kgo.Client
	dec    decoder
	p      mq.PartitionID
	offset int64
	limits mq.Limits
	max    int32
}

// once polls one time; done: there is an answer.
func (r *read) once(ctx context.Context, wait time.Duration) (mq.Batch, bool, error) {
	tm, err := r.d.meta.get(ctx, r.p.Topic, metaStale)
	if err != nil {
		return mq.Batch{}, false, err
	}
	if !tm.has(r.p.Index) {
		return mq.Batch{}, false, mq.Errorf(mq.NotFound, "topic %s has no partition %s", r.p.Topic, r.p)
	}
	leader := tm.leader(r.p.Index)
	if leader < 0 {
		r.d.meta.refresh(r.p.Topic)
		return mq.Batch{}, false, mq.Errorf(mq.NotLeader, "partition %s of topic %s has no leader", r.p, r.p.Topic)
	}
	kresp, err := r.cl.Broker(int(leader)).Request(ctx, r.request(tm, wait))
	if err != nil {
		r.d.meta.refresh(r.p.Topic)
		return mq.Batch{}, false, transportError(err)
	}
	resp := kresp.(*kmsg.FetchResponse)
	if resp.ErrorCode != 0 {
		return mq.Batch{}, false, codeError(resp.ErrorCode, "", nil)
	}
	if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		return mq.Batch{}, false, mq.Errorf(mq.Conn, "the broker left the partition out of its answer")
	}
	return r.answer(ctx, &resp.Topics[0].Partitions[0])
}

func (r *read) request(tm *topicMeta, wait time.Duration) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.IsolationLevel = int32(wait.Milliseconds()), 1, maxFetchResponse, 1
	t := kmsg.NewFetchRequestTopic()
	t.Topic, t.TopicID = string(r.p.Topic), tm.id
	p := kmsg.NewFetchRequestTopicPartition()
	p.Partition, p.FetchOffset, p.PartitionMaxBytes = r.p.Index, r.offset, r.max
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	return req
}

func (r *read) answer(ctx context.Context, rp *kmsg.FetchResponseTopicPartition) (mq.Batch, bool, error) {
	switch rp.ErrorCode {
	case 0:
	case kerr.OffsetOutOfRange.Code:
		b, err := r.reset(ctx)
		return b, err == nil, err
	default:
		r.d.meta.refresh(r.p.Topic)
		e := codeError(rp.ErrorCode, "", nil)
		if rp.ErrorCode == kerr.UnknownTopicID.Code || rp.ErrorCode == kerr.UnknownTopicOrPartition.Code {
			e.Class = mq.NotLeader // the topic moved or was made anew; if it is gone, the next look says so
		}
		return mq.Batch{}, false, e
	}
	records, next, e := r.dec.decode(r.p, r.offset, rp)
	b := mq.Batch{Next: next, HighWatermark: rp.HighWatermark}
	switch {
	case e != nil:
		return b, false, e
	case next == r.offset && len(rp.RecordBatches) > 0:
		if int(r.max) >= r.d.cfg.MaxBatch {
			return b, false, mq.Errorf(mq.TooLarge, "topic %s, partition %s: the record at offset %d is larger than %d bytes", r.p.Topic, r.p, r.offset, r.max)
		}
		r.max = int32(min(2*int(r.max), r.d.cfg.MaxBatch))
		return b, false, nil
	}
	b.Records, b.Next = cutBatch(records, next, r.limits)
	return b, next > r.offset, nil
}

// cutBatch keeps what the limits allow, at least one record.
func cutBatch(records []mq.Record, next int64, l mq.Limits) ([]mq.Record, int64) {
	size := 0
	for i := range records {
		n := records[i].Bytes()
		if i > 0 && (l.MaxRecords > 0 && i >= l.MaxRecords || l.MaxBytes > 0 && size+n > l.MaxBytes) {
			return records[:i:i], records[i-1].Offset + 1
		}
		size += n
	}
	return records, next
}

func (r *read) reset(ctx context.Context) (mq.Batch, error) {
	ps := []mq.PartitionID{r.p}
	first, err := r.d.offsets(ctx, ps, mq.Start{At: mq.Earliest})
	if err != nil {
		return mq.Batch{}, err
	}
	reset := &mq.Reset{Earliest: first[r.p]}
	if r.offset < reset.Earliest {
		reset.Lost = reset.Earliest - r.offset
	}
	return mq.Batch{Next: reset.Earliest, Reset: reset}, nil
}
