package mqtest

import (
	"context"
	"time"

	"github.com/sluice-mq/sluice/internal/mq"
)

type fakeReader struct{ f *Fake }

// Fetch implements mq.Reader.
func (r fakeReader) Fetch(ctx context.Context, id mq.PartitionID, offset int64, l mq.Limits) (mq.Batch, error) {
	return r.f.fetch(ctx, "", id, offset, l, func() error { return nil })
}

// Offsets implements mq.Reader.
func (r fakeReader) Offsets(ctx context.Context, ids []mq.PartitionID, at mq.Start) (map[mq.PartitionID]int64, error) {
	f := r.f
	if err := f.admit(ctx, "Offsets"); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make(map[mq.PartitionID]int64, len(ids))
	for _, id := range ids {
		p, err := f.partition(id)
		if err != nil {
			return nil, err
		}
		if out[id], err = f.resolve(p, at); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// resolve finds a start position. The caller holds mu.
func (f *Fake) resolve(p *fakePartition, at mq.Start) (int64, error) {
	switch at.At {
	case mq.Latest:
		return p.end(), nil
	case mq.AtTime:
		if !f.caps.TimeLookup {
			return 0, mq.Errorf(mq.Unsupported, "this cluster has no offsets by time")
		}
		for i := range p.records {
			if !p.records[i].Timestamp.Before(at.Time.Truncate(time.Millisecond)) {
				return p.records[i].Offset, nil
			}
		}
		return p.end(), nil
	default:
		return p.start, nil
	}
}

// fetch reads from a partition, waiting for the first record; may is asked under the lock, at each try.
func (f *Fake) fetch(ctx context.Context, group string, id mq.PartitionID, offset int64, l mq.Limits, may func() error) (mq.Batch, error) {
	if err := f.ready(ctx); err != nil {
		return mq.Batch{}, err
	}
	if hook := f.script().fetch; hook != nil {
		if err := hook(group, id, offset); err != nil {
			return mq.Batch{}, err
		}
	}
	timer := time.NewTimer(l.MaxWait)
	defer timer.Stop()
	for late := l.MaxWait <= 0; ; {
		f.mu.Lock()
		b, err := f.read(id, offset, l, may)
		changed := f.changed
		f.mu.Unlock()
		if err != nil || late || len(b.Records) > 0 || b.Reset != nil {
			return b, err
		}
		select {
		case <-changed:
		case <-timer.C:
			late = true
		case <-ctx.Done():
			return mq.Batch{}, ended(ctx)
		case <-f.closing:
			return mq.Batch{}, errClosed()
		}
	}
}

// read takes what is there. The caller holds mu.
func (f *Fake) read(id mq.PartitionID, offset int64, l mq.Limits, may func() error) (mq.Batch, error) {
	if err := may(); err != nil {
		return mq.Batch{}, err
	}
	p, err := f.partition(id)
	if err != nil {
		return mq.Batch{}, err
	}
	if p.info.Leader == "" {
		return mq.Batch{}, mq.Errorf(mq.NotLeader, "partition %s of %s has no leader", id, id.Topic)
	}
	b := mq.Batch{Next: offset, HighWatermark: p.end()}
	if offset < p.start || offset > p.end() {
		b.Next, b.Reset = p.start, &mq.Reset{Earliest: p.start, Lost: max(0, p.start-max(0, offset))}
		return b, nil
	}
	size, from := 0, int(offset-p.start)
	to := from
	for ; to < len(p.records); to++ {
		size += p.records[to].Bytes()
		// The first record comes whatever its size, or the reader would stand still for ever.
		if to > from && ((l.MaxBytes > 0 && size > l.MaxBytes) || (l.MaxRecords > 0 && to-from >= l.MaxRecords)) {
			break
		}
	}
	b.Records = cloneRecords(p.records[from:to])
	b.Next = p.start + int64(to)
	return b, nil
}

// trim deletes everything below an offset.
func (p *fakePartition) trim(below int64) {
	if n := min(below, p.end()) - p.start; n > 0 {
		p.records = append([]mq.Record(nil), p.records[n:]...)
		p.start += n
	}
}
