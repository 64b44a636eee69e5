package embedded

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"time"

	"github.com/sluice-mq/sluice/internal/mq"
)

// retain deletes what is too old or too much, now and then, until ctx ends.
func (s *Store) retain(ctx context.Context) {
	tick := time.NewTicker(s.cfg.RetentionInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if s.writable() != nil {
			continue
		}
		if err := s.retention(ctx, s.now()); err != nil && ctx.Err() == nil {
			s.log.Warn("retention did not go through; it is tried again", "err", err)
		}
	}
}

// retention deletes by age, then by the size of each partition, then the oldest of all until the total fits.
// Age is that of the append by this machine's clock, not the record's own timestamp, which may be anything.
func (s *Store) retention(ctx context.Context, now time.Time) error {
	var errs []error
	for _, t := range s.allTopics() {
		keep := cmp.Or(t.limits.retentionTime, s.cfg.RetentionTime)
		oldest := now.Add(-keep).UnixMilli()
		for _, p := range t.parts {
			errs = append(errs, s.cut(ctx, p, func(h header) bool { return h.appended >= oldest }))
			if limit := t.limits.retentionBytes; limit > 0 {
				m := p.view()
				errs = append(errs, s.cut(ctx, p, func(h header) bool { return m.sum-h.sum < limit }))
			}
		}
	}
	return errors.Join(append(errs, s.retainTotal(ctx))...)
}

// cut deletes the batches in front of the first one that keep wants; it has to want all that follow.
func (s *Store) cut(ctx context.Context, p *partition, keep func(header) bool) error {
	m := p.view()
	if m.start == m.end {
		return nil
	}
	c, err := s.cursor(p)
	if err != nil {
		return err
	}
	ok, err := c.seek(m.start)
	if err == nil && ok && keep(c.header) {
		return c.close() // the usual case: nothing is due
	}
	ok, err = c.search(m, keep)
	to := trimTo{p: p, below: m.end, first: m.end, low: m.sum}
	if ok {
		to.below, to.first, to.low = c.base, c.base, c.sum-c.bytes()
	}
	if err = errors.Join(err, c.close()); err != nil {
		return damaged(p.id, m.start, err)
	}
	if err := s.do(ctx, &op{run: func(t *tx) error { return to.run(t) }}); err != nil {
		return err
	}
	if n := to.below - m.start; n > 0 {
		s.m.retained.Add(float64(n))
		s.m.retainedBytes.Add(float64(to.low - m.low))
		s.log.Debug("retention", "topic", p.id.Topic, "partition", p.id.String(), "records", n, "offset", to.below)
	}
	return nil
}

// trimTo is a deletion of the front of a partition.
type trimTo struct {
	p                 *partition
	below, first, low int64
}

func (d trimTo) run(t *tx) error {
	if d.p.gone {
		return notFound(d.p.id)
	}
	return t.trim(t.part(d.p), d.below, d.first, d.low)
}

// aged is a partition in the heap of retainTotal: by the age of its first batch.
type aged struct {
	p        *partition
	appended int64
	sum      int64 // header.sum of that batch
}

type agedHeap []aged

func (h agedHeap) Len() int           { return len(h) }
func (h agedHeap) Less(i, j int) bool { return h[i].appended < h[j].appended }
func (h agedHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *agedHeap) Push(x any)        { *h = append(*h, x.(aged)) }
func (h *agedHeap) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}

// retainTotal deletes the oldest data, whichever partition has it, until all together fit.
func (s *Store) retainTotal(ctx context.Context) error {
	excess := s.Stats().LogBytes - s.cfg.RetentionBytes
	if excess <= 0 {
		return nil
	}
	var h agedHeap
	push := func(p *partition) error {
		m := p.view()
		if m.start == m.end {
			return nil
		}
		c, err := s.cursor(p)
		if err != nil {
			return err
		}
		ok, err := c.seek(m.start)
		if ok {
			heap.Push(&h, aged{p, c.appended, c.sum})
		}
		return errors.Join(err, c.close())
	}
	for _, t := range s.allTopics() {
		for _, p := range t.parts {
			if err := push(p); err != nil {
				return err
			}
		}
	}
	for excess > 0 && h.Len() > 0 && ctx.Err() == nil {
		oldest := heap.Pop(&h).(aged)
		p := oldest.p
		m := p.view()
		// In pieces, so that partitions of about the same age shrink together; the first batch goes in any case.
		piece := min(excess, max(excess/8, 1<<20))
		if err := s.cut(ctx, p, func(h header) bool { return h.sum > oldest.sum && h.sum-m.low > piece }); err != nil {
			return err
		}
		freed := p.view().low - m.low
		excess -= freed
		if err := push(p); err != nil {
			return err
		}
	}
	return nil
}

// DeleteRecords implements mq.Admin.
func (a admin) DeleteRecords(ctx context.Context, below map[mq.PartitionID]int64) error {
	s := a.s
	if err := s.ready(ctx); err != nil {
		return err
	}
	for id, offset := range below {
		p, _, err := s.partition(id)
		if err != nil {
			return err
		}
		m := p.view()
		if offset > m.end {
			return mq.Errorf(mq.Invalid, "offset %d is beyond the end %d of topic %s partition %s", offset, m.end, id.Topic, id)
		}
		if offset <= m.start {
			continue
		}
		to, err := s.trimAt(p, m, offset)
		if err != nil {
			return err
		}
		if err := s.do(ctx, &op{run: to.run}); err != nil {
			return err
		}
	}
	return nil
}

// trimAt finds the batch that an offset lies in: it stays while one of its records does.
func (s *Store) trimAt(p *partition, m mark, offset int64) (trimTo, error) {
	if offset == m.end {
		return trimTo{p: p, below: m.end, first: m.end, low: m.sum}, nil
	}
	c, err := s.cursor(p)
	if err != nil {
		return trimTo{}, err
	}
	ok, err := c.seek(offset)
	to := trimTo{p: p, below: offset, first: c.base, low: c.sum - c.bytes()}
	if err = errors.Join(err, c.close()); err == nil && !ok {
		err = errors.New("no batch")
	}
	if err != nil {
		return trimTo{}, damaged(p.id, offset, err)
	}
	return to, nil
}
