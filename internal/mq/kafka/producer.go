package kafka

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/sluice-mq/sluice/internal/mq"
)

// producer gives each partition a queue and each broker a sender.
type producer struct {
	d          *Driver
	compressor kgo.Compressor // nil: none
	now        func() time.Time

	bytes atomic.Int64 // of all queues

	mu      sync.RWMutex // guards queues, senders, closed, ended
	queues  map[mq.PartitionID]*queue
	senders map[int32]*sender
	closed  bool // nothing new is taken
	ended   bool // no goroutine is started any more

	prep prep
	wg   sync.WaitGroup
}

func newProducer(d *Driver) (*producer, error) {
	p := &producer{d: d, now: time.Now, queues: map[mq.PartitionID]*queue{}, senders: map[int32]*sender{}}
	if codec := codecs[d.cfg.Compression]; codec != nil {
		var err error
		if p.compressor, err = kgo.DefaultCompressor(codec()); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// Partitions implements mq.Producer.
func (p *producer) Partitions(ctx context.Context, topic mq.Topic) ([]mq.Partition, error) {
	tm, err := p.d.meta.get(ctx, topic, metaStale)
	if err != nil {
		return nil, err
	}
	return tm.partitions, nil
}

// Produce implements mq.Producer.
func (p *producer) Produce(ctx context.Context, id mq.PartitionID, records []mq.Record, done func([]mq.Result)) {
	if len(records) == 0 {
		done(nil)
		return
	}
	if caps := p.d.knownCaps(); caps != nil && !caps.Headers && slices.ContainsFunc(records, func(r mq.Record) bool { return needsHeaders(&r) }) {
		p.produceBare(ctx, id, records, done)
		return
	}
	it := &item{ctx: ctx, records: records, results: make([]mq.Result, len(records)), done: done, end: len(records)}
	it.deadline, _ = ctx.Deadline()
	headers := false
	for i := range records {
		it.bytes += recordBytes(&records[i])
		headers = headers || needsHeaders(&records[i])
	}
	if err := p.admit(it, id, headers); err != nil {
		for i := range it.results {
			it.results[i] = mq.Result{Offset: -1, Err: err}
		}
		done(it.results)
		return
	}
	q, err := p.queue(id)
	if err != nil {
		p.refuse(it, err)
		return
	}
	start, ok := q.add(it)
	if !ok {
		p.refuse(it, mq.Errorf(mq.Busy, "partition %s of topic %s: %d bytes are waiting already; slow down", id, id.Topic, p.d.cfg.PartitionBytes))
		return
	}
	if start {
		p.dispatch(q)
	}
}

// produceBare refuses what an old cluster cannot carry and produces the rest, so that one such record never fails its neighbours.
func (p *producer) produceBare(ctx context.Context, id mq.PartitionID, records []mq.Record, done func([]mq.Result)) {
	results := make([]mq.Result, len(records))
	var bare []mq.Record
	var at []int
	for i := range records {
		if needsHeaders(&records[i]) {
			results[i] = mq.Result{Offset: -1, Err: errNoHeaders()}
			continue
		}
		bare, at = append(bare, records[i]), append(at, i)
	}
	if len(bare) == 0 {
		done(results)
		return
	}
	p.Produce(ctx, id, bare, func(rs []mq.Result) {
		for i, r := range rs {
			results[at[i]] = r
		}
		done(results)
	})
}

func (p *producer) admit(it *item, id mq.PartitionID, headers bool) error {
	if err := it.ctx.Err(); err != nil {
		return errNotSent(it.ctx, nil)
	}
	if caps := p.d.knownCaps(); headers && caps != nil && !caps.Headers {
		return errNoHeaders()
	}
	if id.Index < 0 || id.Broker != "" || id.Topic == "" {
		return mq.Errorf(mq.NotFound, "%q/%s is not a Kafka partition", id.Topic, id)
	}
	if n := p.bytes.Add(int64(it.bytes)); n > int64(p.d.cfg.ProduceBytes) {
		p.bytes.Add(-int64(it.bytes))
		return mq.Errorf(mq.Busy, "%d bytes are waiting for the cluster already; slow down", p.d.cfg.ProduceBytes)
	}
	p.d.m.queuedBytes.Add(float64(it.bytes))
	return nil
}

func (p *producer) release(bytes int) {
	p.bytes.Add(-int64(bytes))
	p.d.m.queuedBytes.Sub(float64(bytes))
}

// refuse answers an item that was admitted but is in no queue.
func (p *producer) refuse(it *item, err error) {
	p.release(it.bytes)
	for i := range it.results {
		it.results[i] = mq.Result{Offset: -1, Err: err}
	}
	it.done(it.results)
}

func (p *producer) queue(id mq.PartitionID) (*queue, error) {
	p.mu.RLock()
	q, closed := p.queues[id], p.closed
	p.mu.RUnlock()
	if closed {
		return nil, errClosed()
	}
	if q != nil {
		return q, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, errClosed()
	}
	if q = p.queues[id]; q == nil {
		q = &queue{id: id, p: p, ident: ident{pid: -1, epoch: -1, seq: -1}, cut: defaultMaxBatch - 512}
		p.queues[id] = q
	}
	return q, nil
}

func (p *producer) sender(broker int32) *sender {
	p.mu.RLock()
	s := p.senders[broker]
	p.mu.RUnlock()
	if s != nil {
		return s
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if s = p.senders[broker]; s == nil {
		s = &sender{p: p, broker: broker}
		p.senders[broker] = s
	}
	return s
}

// dispatch gives a busy queue to the sender of its leader, or waits for one. Whoever calls it holds the queue.
func (p *producer) dispatch(q *queue) {
	if !p.ready(q) {
		return // the preparation dispatches it again
	}
	tm := p.d.meta.cached(q.id.Topic)
	switch {
	case tm == nil:
		p.park(q, nil)
	case tm.err != nil:
		p.park(q, tm.err)
	case !tm.has(q.id.Index):
		p.park(q, mq.Errorf(mq.NotFound, "topic %s has %d partitions, not a partition %s", q.id.Topic, len(tm.partitions), q.id))
	case tm.leader(q.id.Index) < 0:
		p.park(q, mq.Errorf(mq.NotLeader, "partition %s of topic %s has no leader", q.id, q.id.Topic))
	default:
		p.sender(tm.leader(q.id.Index)).add(q)
	}
}

// park keeps a queue that cannot be sent now: after the next look at the topic it is tried again, and after
// LeaderWait its records fail as not sent. err nil: the topic was not looked up yet.
func (p *producer) park(q *queue, err *mq.Error) {
	p.d.m.retries.WithLabelValues("no_leader").Inc()
	r := p.d.meta.refresh(q.id.Topic)
	if !p.stillWaiting(q, err) {
		return
	}
	if !p.spawn(func() {
		select {
		case <-r.done:
		case <-p.d.ctx.Done():
		}
		if r.err != nil && !p.stillWaiting(q, r.err) {
			return
		}
		p.dispatch(q)
	}) {
		p.abort(q, errClosed())
	}
}

// stillWaiting notes the trouble of a queue, fails what waited too long, and lets go of a queue that is empty.
func (p *producer) stillWaiting(q *queue, err *mq.Error) bool {
	var as answers
	q.mu.Lock()
	now := p.now()
	if q.trouble.IsZero() {
		q.trouble = now
	}
	if err != nil {
		q.lastErr = err
	}
	over := now.Sub(q.trouble) > p.d.cfg.LeaderWait || p.d.ctx.Err() != nil
	if err != nil && err.Class == mq.NotFound && q.flight == nil {
		// A topic that was made a moment ago may be unknown to the broker that was asked: one more look.
		over = over || now.Sub(q.trouble) > 2*metaGap
	}
	if q.flight != nil {
		over = now.Sub(q.flight.at) > p.d.cfg.HangTimeout || p.d.ctx.Err() != nil
		if over {
			p.giveUp(q, &as)
		}
	} else if over {
		if err == nil {
			err = mq.Errorf(mq.Conn, "the cluster did not describe topic %s", q.id.Topic)
		}
		q.failAll(err, &as)
	} else {
		q.expireAll(now, &as)
	}
	waiting := len(q.items) > 0
	if !waiting {
		q.busy = false
		q.trouble, q.lastErr = time.Time{}, nil
	}
	q.mu.Unlock()
	as.call()
	return waiting
}

// failAll fails all that waits: what stands behind a record that failed would overtake it. No flight may be out.
func (q *queue) failAll(err error, as *answers) {
	for _, it := range q.items {
		q.fail(it, it.next, err)
		q.finish(it, as)
	}
	q.items = nil
}

// abort fails everything of a queue that nobody will send any more.
func (p *producer) abort(q *queue, err *mq.Error) {
	var as answers
	q.mu.Lock()
	if q.flight != nil {
		p.giveUp(q, &as)
	}
	q.failAll(err, &as)
	q.busy = false
	q.mu.Unlock()
	as.call()
}

// spawn runs f in a goroutine that close waits for; false when it is too late.
func (p *producer) spawn(f func()) bool {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.ended {
		return false
	}
	p.wg.Go(f)
	return true
}

// close refuses new records and waits for the outcome of those there are.
func (p *producer) close(ctx context.Context) error {
	p.mu.Lock()
	p.closed = true
	queues := make([]*queue, 0, len(p.queues))
	for _, q := range p.queues {
		queues = append(queues, q)
	}
	p.mu.Unlock()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for p.anyBusy(queues) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return &mq.Error{Class: mq.Timeout, Msg: "some writes had no outcome when the driver was closed", Cause: ctx.Err()}
		}
	}
	return nil
}

func (p *producer) anyBusy(queues []*queue) bool {
	return slices.ContainsFunc(queues, func(q *queue) bool {
		q.mu.Lock()
		defer q.mu.Unlock()
		return q.busy
	})
}

// wait is called when the driver's context has ended: everything left fails, and its goroutines end.
func (p *producer) wait() {
	p.mu.Lock()
	p.ended = true
	p.mu.Unlock()
	p.wg.Wait()
	p.mu.RLock()
	defer p.mu.RUnlock()
	for _, q := range p.queues {
		p.abort(q, errClosed())
	}
}
