package kafka

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/sluice-mq/sluice/internal/mq"
)

const (
	defaultFetchBytes = 1 << 20
	shortPoll         = 100 * time.Millisecond // of a poll that other partitions may want to join soon
	fetchPause        = 100 * time.Millisecond // after a failure
)

// fetcher reads partitions through one client: a poll per broker at a time carries all partitions that want
// more, and what it brings waits in a bounded buffer per partition for Fetch.
type fetcher struct {
	d   *Driver
	cl  *kgo.Client
	dec decoder

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex // guards the rest, cursors included
	cursors map[mq.PartitionID]*cursor
	sources map[int32]*source
	bytes   int // in all buffers
	closed  bool
}

// cursor is one partition being read. The fetcher's lock guards it, except turn.
type cursor struct {
	id   mq.PartitionID
	turn chan struct{} // capacity 1: held by the Fetch call in progress

	topicID  [16]byte // as first seen; another one later means that the topic was made anew
	hasID    bool
	started  bool          // a position was asked for
	want     int64         // next offset to ask the broker for
	seek     int           // counts jumps: an answer of an older one is dropped
	polling  bool          // in a poll
	ready    chan struct{} // capacity 1: something happened
	maxBytes int
	wait     time.Duration // how long the present call of Fetch still waits
	calling  bool

	// The buffer: records that follow each other from at on; next is where the offset after them is.
	at, next  int64
	records   []mq.Record
	bytes     int
	high      int64
	reset     *mq.Reset
	resetNext int64
	err       *mq.Error // of the last attempt
	final     bool      // err is the broker's verdict on this offset, not to be waited out
	notBefore time.Time
}

func newFetcher(d *Driver, cl *kgo.Client) *fetcher {
	f := &fetcher{d: d, cl: cl, dec: newDecoder(cl, d.cfg.MaxBatch), cursors: map[mq.PartitionID]*cursor{}, sources: map[int32]*source{}}
	f.ctx, f.cancel = context.WithCancel(d.ctx)
	return f
}

// close ends all polls and waits for them.
func (f *fetcher) close() {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.cancel()
	f.wg.Wait()
}

// drop forgets partitions that are not read any more.
func (f *fetcher) drop(ps []mq.PartitionID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range ps {
		if c := f.cursors[p]; c != nil {
			f.bytes -= c.bytes
			c.bytes, c.records = 0, nil
			c.seek++
			delete(f.cursors, p)
			c.signal()
		}
	}
}

func (c *cursor) signal() {
	select {
	case c.ready <- struct{}{}:
	default:
	}
}

// cursorOf needs f.mu.
func (f *fetcher) cursorOf(p mq.PartitionID) *cursor {
	c := f.cursors[p]
	if c == nil {
		c = &cursor{id: p, turn: make(chan struct{}, 1), ready: make(chan struct{}, 1), maxBytes: f.d.cfg.FetchBytes}
		f.cursors[p] = c
	}
	return c
}

// fetch is Group.Fetch for an owned partition.
func (f *fetcher) fetch(ctx context.Context, p mq.PartitionID, offset int64, l mq.Limits) (mq.Batch, error) {
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return mq.Batch{}, errClosed()
	}
	c := f.cursorOf(p)
	f.mu.Unlock()
	select {
	case c.turn <- struct{}{}:
	case <-ctx.Done():
		return mq.Batch{}, fetchTimeout(p, ctx, nil)
	}
	defer func() { <-c.turn }()

	end := time.Now().Add(l.MaxWait)
	timer := time.NewTimer(max(l.MaxWait, time.Millisecond))
	defer timer.Stop()
	over := false
	for {
		b, ok, err := f.step(c, offset, l, time.Until(end), over)
		if ok || err != nil {
			return b, err
		}
		if over {
			return b, nil
		}
		select {
		case <-c.ready:
		case <-timer.C:
			over = true
		case <-ctx.Done():
			f.idle(c)
			return mq.Batch{}, fetchTimeout(p, ctx, nil)
		case <-f.ctx.Done():
			return mq.Batch{}, errClosed()
		}
	}
}

func fetchTimeout(p mq.PartitionID, ctx context.Context, last *mq.Error) error {
	e := &mq.Error{Class: mq.Timeout, Msg: "topic " + string(p.Topic) + ", partition " + p.String() + ": fetch", Cause: ctx.Err()}
	if last != nil {
		e.Cause = last
	}
	return e
}

func (f *fetcher) idle(c *cursor) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c.calling = false
}

// step answers from the buffer, or sees to it that the partition is being asked for.
func (f *fetcher) step(c *cursor, offset int64, l mq.Limits, wait time.Duration, over bool) (mq.Batch, bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cursors[c.id] != c {
		return mq.Batch{}, false, mq.Errorf(mq.Fenced, "partition %s of topic %s is not owned any more", c.id, c.id.Topic)
	}
	if l.MaxBytes > 0 {
		c.maxBytes = max(c.maxBytes, min(l.MaxBytes, f.d.cfg.FetchBytes))
	}
	if !c.started || c.at != offset {
		f.jump(c, offset)
	}
	switch {
	case c.reset != nil:
		b := mq.Batch{Next: c.resetNext, HighWatermark: c.high, Reset: c.reset}
		c.reset = nil
		f.jump(c, b.Next)
		return b, true, nil
	case len(c.records) > 0 || c.next > c.at:
		b := f.take(c, l)
		c.calling = false
		f.poll(c) // the next part is fetched while this one is worked on
		return b, true, nil
	case c.err != nil && (c.final || over):
		err := c.err
		if c.final {
			c.err, c.final = nil, false
			c.started = false // asked again, it is fetched again
		}
		c.calling = false
		return mq.Batch{Next: offset}, false, err
	}
	c.calling, c.wait = !over, wait
	f.poll(c)
	return mq.Batch{Next: offset, HighWatermark: c.high}, false, nil
}

// jump makes offset the position; what is buffered further ahead is used, else dropped. It needs f.mu.
func (f *fetcher) jump(c *cursor, offset int64) {
	if c.started && offset > c.at && offset < c.next && c.reset == nil {
		// Inside the buffer: the caller skipped, or went on after the last record of an earlier answer.
		i, _ := slices.BinarySearchFunc(c.records, offset, func(r mq.Record, o int64) int { return int(min(max(r.Offset-o, -1), 1)) })
		for j := range c.records[:i] {
			n := c.records[j].Bytes()
			c.bytes -= n
			f.bytes -= n
		}
		c.records = c.records[i:]
		c.at = offset
		return
	}
	f.bytes -= c.bytes
	c.records, c.bytes = nil, 0
	c.at, c.next, c.want = offset, offset, offset
	c.reset, c.err, c.final = nil, nil, false
	c.started = true
	c.seek++
	c.polling = false // an answer under way is dropped
	if s := f.sourceOf(c); s != nil {
		s.kick()
	}
}

// take hands out records within the limits, at least one. It needs f.mu.
func (f *fetcher) take(c *cursor, l mq.Limits) mq.Batch {
	n, size := 0, 0
	for n < len(c.records) {
		b := c.records[n].Bytes()
		if n > 0 && (l.MaxRecords > 0 && n >= l.MaxRecords || l.MaxBytes > 0 && size+b > l.MaxBytes) {
			break
		}
		size += b
		n++
	}
	b := mq.Batch{Records: c.records[:n:n], HighWatermark: c.high, Next: c.next}
	if n < len(c.records) {
		b.Next = c.records[n-1].Offset + 1
	}
	c.records = c.records[n:]
	c.bytes -= size
	f.bytes -= size
	c.at = b.Next
	if len(c.records) == 0 {
		c.records = nil
	}
	return b
}

// hungry tells whether the broker should be asked for more of c. It needs f.mu.
func (f *fetcher) hungry(c *cursor) bool {
	if !c.started || c.reset != nil || c.final {
		return false
	}
	if len(c.records) == 0 && c.next == c.at {
		return true // empty: whatever the others hold, this one may go on
	}
	return c.bytes < c.maxBytes/2 && f.bytes < f.d.cfg.FetchBuffer
}

// poll starts the source of c's leader if it sleeps. It needs f.mu.
func (f *fetcher) poll(c *cursor) {
	if f.closed || c.polling || !f.hungry(c) {
		return
	}
	s := f.sourceOf(c)
	if s == nil {
		f.wakeLater(c)
		return
	}
	s.start()
}

// sourceOf is the source of c's leader, nil while it has none. It needs f.mu.
func (f *fetcher) sourceOf(c *cursor) *source {
	tm := f.d.meta.cached(c.id.Topic)
	if tm == nil || tm.err != nil {
		return nil
	}
	leader := tm.leader(c.id.Index)
	if leader < 0 {
		return nil
	}
	s := f.sources[leader]
	if s == nil {
		s = &source{f: f, broker: leader}
		f.sources[leader] = s
	}
	return s
}

// wakeLater looks for a leader of c in the background. It needs f.mu.
func (f *fetcher) wakeLater(c *cursor) {
	if c.polling || f.closed {
		return
	}
	c.polling = true
	seek := c.seek
	r := f.d.meta.refresh(c.id.Topic)
	f.wg.Go(func() {
		select {
		case <-r.done:
		case <-f.ctx.Done():
			return
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		if c.seek == seek {
			c.polling = false
		}
		if f.cursors[c.id] != c || f.closed {
			return
		}
		f.noLeader(c, r.err)
		c.signal()
	})
}

// noLeader notes why c has none, or takes up the fetching. It needs f.mu.
func (f *fetcher) noLeader(c *cursor, err *mq.Error) {
	tm := f.d.meta.cached(c.id.Topic)
	switch {
	case err != nil:
		c.err = err
	case tm == nil:
	case tm.err != nil:
		c.err, c.final = tm.err, tm.err.Class == mq.NotFound
	case !tm.has(c.id.Index):
		c.err, c.final = mq.Errorf(mq.NotFound, "topic %s has no partition %s", c.id.Topic, c.id), true
	case tm.leader(c.id.Index) < 0:
		c.err = mq.Errorf(mq.NotLeader, "partition %s of topic %s has no leader", c.id, c.id.Topic)
	default:
		f.poll(c)
		return
	}
	if !c.final {
		time.AfterFunc(fetchPause, func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			if f.cursors[c.id] == c {
				f.poll(c)
			}
		})
	}
}
