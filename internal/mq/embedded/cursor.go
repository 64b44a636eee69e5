package embedded

import (
	"context"
	"errors"
	"sort"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/sluice-mq/sluice/internal/mq"
)

// cursor walks over a partition's batches. It holds the database open: close it soon, and wait for nothing before.
type cursor struct {
	it      *pebble.Iterator
	release func()
	key     []byte
	topic   uint64
	part    int32

	base int64
	header
	value []byte // valid until the next move
}

func (s *Store) cursor(p *partition) (*cursor, error) {
	db, release, err := s.use()
	if err != nil {
		return nil, err
	}
	return openCursor(db, release, p)
}

// openCursor is cursor for those who hold the database already: the committer must not lock life twice.
func openCursor(db *pebble.DB, release func(), p *partition) (*cursor, error) {
	low := batchKey(nil, p.topic, p.id.Index, 0)
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: low, UpperBound: after(low[:batchKeyLen-8])})
	if err != nil {
		release()
		return nil, err
	}
	return &cursor{it: it, release: release, topic: p.topic, part: p.id.Index}, nil
}

func (c *cursor) close() error {
	err := c.it.Close()
	c.release()
	return err
}

// seek goes to the batch that holds an offset, or where that is missing to one before or behind it.
func (c *cursor) seek(offset int64) (bool, error) {
	c.key = batchKey(c.key[:0], c.topic, c.part, offset+1)
	if c.it.SeekLT(c.key) {
		return c.load()
	}
	if err := c.it.Error(); err != nil {
		return false, err
	}
	if c.it.First() {
		return c.load()
	}
	return false, c.it.Error()
}

func (c *cursor) next() (bool, error) {
	if !c.it.Next() {
		return false, c.it.Error()
	}
	return c.load()
}

func (c *cursor) load() (ok bool, err error) {
	if c.value, err = c.it.ValueAndErr(); err != nil {
		return false, err
	}
	c.base = baseOf(c.it.Key())
	c.header, err = decodeHeader(c.value)
	return err == nil, err
}

// bytes is what the batch counts in header.sum.
func (c *cursor) bytes() int64 { return int64(batchKeyLen + len(c.value)) }

// search goes to the first batch of which cond holds, which has to hold of all that follow; false: there is none. It
// is a binary search over the offsets, a seek for each step.
func (c *cursor) search(m mark, cond func(header) bool) (bool, error) {
	var err error
	n := sort.Search(int(m.end-m.start), func(i int) bool {
		ok, e := c.seek(m.start + int64(i))
		if e != nil {
			err = e
		}
		return err != nil || !ok || cond(c.header)
	})
	if err != nil || m.start+int64(n) >= m.end {
		return false, err
	}
	return c.seek(m.start + int64(n))
}

// Offsets implements mq.Reader. AtTime is the first record whose timestamp is not before the time.
func (r reader) Offsets(ctx context.Context, ids []mq.PartitionID, at mq.Start) (map[mq.PartitionID]int64, error) {
	if err := r.s.ready(ctx); err != nil {
		return nil, err
	}
	out := make(map[mq.PartitionID]int64, len(ids))
	for _, id := range ids {
		p, _, err := r.s.partition(id)
		if err == nil {
			out[id], err = resolve(ctx, p, at, r.s.cursor)
		}
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// resolve finds a start position; look opens a cursor where that takes one.
func resolve(ctx context.Context, p *partition, at mq.Start, look func(*partition) (*cursor, error)) (int64, error) {
	m := p.view()
	switch at.At {
	case mq.Latest:
		return m.end, nil
	case mq.AtTime:
		c, err := look(p)
		if err != nil {
			return 0, err
		}
		o, err := c.offsetAt(ctx, p, m, at.Time)
		return o, errors.Join(err, c.close())
	default:
		return m.start, nil
	}
}

// offsetAt finds the first record at or after a time. Batches know the newest timestamp up to them, which never falls:
// the record is in the first batch that reaches the time, or, where older records with newer times were deleted, behind.
func (c *cursor) offsetAt(ctx context.Context, p *partition, m mark, at time.Time) (int64, error) {
	ms := at.UnixMilli()
	ok, err := c.search(m, func(h header) bool { return h.maxTime >= ms })
	for ; ok && err == nil && c.base < m.end; ok, err = c.next() {
		if ctx.Err() != nil {
			return 0, ended(ctx)
		}
		d := decoder{rest: c.value[headerLen:], appended: c.appended}
		for o := c.base; o < c.base+int64(c.count); o++ {
			r, err := d.next()
			if err != nil {
				return 0, damaged(p.id, o, err)
			}
			if o >= m.start && r.Timestamp.UnixMilli() >= ms {
				return o, nil
			}
		}
	}
	if err != nil {
		return 0, damaged(p.id, m.start, err)
	}
	return m.end, nil
}
