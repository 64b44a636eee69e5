package embedded

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/sluice-mq/sluice/internal/mq"
)

const (
	defaultFetchBytes = 1 << 20
	maxFetchBytes     = 16 << 20
)

type reader struct{ s *Store }

// Fetch implements mq.Reader.
func (r reader) Fetch(ctx context.Context, id mq.PartitionID, offset int64, l mq.Limits) (mq.Batch, error) {
	return r.s.fetch(ctx, id, offset, l, nil)
}

// access is what a group's membership adds to a fetch: nil where anybody may read.
type access interface {
	// may is asked before each look, mayNot is closed when the answer may have changed.
	may(mq.PartitionID) error
	mayNot() <-chan struct{}
}

// fetch reads what is synced, and waits for it at the end of the log: each partition wakes its own waiters.
func (s *Store) fetch(ctx context.Context, id mq.PartitionID, offset int64, l mq.Limits, who access) (mq.Batch, error) {
	var timer *time.Timer
	late := l.MaxWait <= 0
	for {
		if err := s.ready(ctx); err != nil {
			return mq.Batch{}, err
		}
		var fence <-chan struct{}
		if who != nil {
			fence = who.mayNot()
			if err := who.may(id); err != nil {
				return mq.Batch{}, err
			}
		}
		p, _, err := s.partition(id)
		if err != nil {
			return mq.Batch{}, err
		}
		m, gone, wake := p.watch()
		if gone {
			continue // replaced: look it up again
		}
		b, err := s.read(p, m, offset, l)
		if err != nil || late || len(b.Records) > 0 || b.Reset != nil || b.Next > offset {
			return b, err
		}
		if timer == nil {
			timer = time.NewTimer(l.MaxWait)
			defer timer.Stop()
		}
		select {
		case <-wake:
		case <-fence:
		case <-timer.C:
			late = true
		case <-ctx.Done():
		case <-s.closing:
		}
	}
}

// read takes what the partition has from an offset on, within the limits, but one record at least.
func (s *Store) read(p *partition, m mark, offset int64, l mq.Limits) (mq.Batch, error) {
	b := mq.Batch{Next: offset, HighWatermark: m.end}
	if offset < m.start || offset > m.end {
		b.Next, b.Reset = m.start, &mq.Reset{Earliest: m.start, Lost: max(0, m.start-max(0, offset))}
		return b, nil
	}
	if offset == m.end {
		return b, nil
	}
	c, err := s.cursor(p)
	if err != nil {
		return mq.Batch{}, err
	}
	room := room{bytes: min(cmpOr(l.MaxBytes, defaultFetchBytes), maxFetchBytes), records: l.MaxRecords}
	ok, err := c.seek(offset)
	for ; ok && err == nil && b.Next < m.end; ok, err = c.next() {
		if c.base+int64(c.count) <= b.Next || c.base > b.Next {
			break // a gap: deleted meanwhile, or damage; told apart below
		}
		var more bool
		if more, err = c.take(&b, m.end, &room); err != nil || !more {
			break
		}
	}
	err = errors.Join(err, c.close())
	if len(b.Records) > 0 {
		return b, nil
	}
	if now := p.view(); err == nil && offset < now.start {
		return s.read(p, now, offset, l) // retention was faster
	}
	if err == nil {
		err = errors.New("a batch is missing")
	}
	return mq.Batch{}, damaged(p.id, offset, err)
}

// room is what a fetch may still take.
type room struct{ bytes, records, taken int }

// fits takes a record in; the first one always fits, or its reader would stand still for ever.
func (r *room) fits(n int) bool {
	if r.taken > 0 && (n > r.bytes || (r.records > 0 && r.taken >= r.records)) {
		return false
	}
	r.taken++
	r.bytes -= n
	return true
}

// take decodes the cursor's batch from b.Next on; false: the room is used up.
func (c *cursor) take(b *mq.Batch, end int64, r *room) (bool, error) {
	d := decoder{rest: c.value[headerLen:], appended: c.appended}
	if err := d.skip(b.Next - c.base); err != nil {
		return false, err
	}
	d.rest = slices.Clone(d.rest) // the iterator's memory is its own; the records alias this copy
	n := c.base + int64(c.count) - b.Next
	b.Records = slices.Grow(b.Records, int(min(n, 1024)))
	for ; n > 0 && b.Next < end; n-- {
		rec, err := d.next()
		if err != nil {
			return false, err
		}
		if !r.fits(rec.Bytes()) {
			return false, nil
		}
		rec.Offset = b.Next
		b.Records = append(b.Records, rec)
		b.Next++
	}
	return true, nil
}

func cmpOr(n, def int) int {
	if n > 0 {
		return n
	}
	return def
}
