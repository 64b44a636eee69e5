package publish

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/mq"
)

// How a failed slice is retried: soon at first, since most failures are a
// leader that moved, then at a pace that does not hurt a broker in trouble.
const (
	firstBackoff = 10 * time.Millisecond
	maxBackoff   = 500 * time.Millisecond
	// moveAfter is how many failures of a partition make un-keyed messages try another broker.
	moveAfter = 2
)

// produced takes the driver's answer.
func (s *slice) produced(rs []mq.Result) {
	if len(rs) != len(s.items) {
		s.judge(s.noAnswer(len(rs)))
		return
	}
	for i := range rs {
		if rs[i].Err != nil {
			s.judge(rs)
			return
		}
	}
	for i := range rs {
		s.items[i].store(rs[i].Offset, Stored, nil)
	}
	s.finish()
	settle(s.items)
}

// noAnswer stands for the answer of a driver that broke its contract: nobody
// knows what became of the records.
func (s *slice) noAnswer(n int) []mq.Result {
	s.e.log.Error("driver gave a wrong number of results", "cluster", s.state.t.cluster, "topic", s.id.Topic, "partition", s.id.String(), "want", len(s.items), "got", n)
	err := mq.Errorf(mq.Fatal, "the driver gave %d results for %d records", n, len(s.items))
	err.MaybeSent = true
	rs := make([]mq.Result, len(s.items))
	for i := range rs {
		rs[i].Err = err
	}
	return rs
}

// judge takes an answer with failures: what is final gets its result, the rest
// is tried again alone. Nothing of the old records is changed, for the driver may
// still read those of a write that runs on.
func (s *slice) judge(rs []mq.Result) {
	vs := s.verdicts(rs)
	wait := s.backoff()
	s.inTime(vs, s.e.now().Add(wait))
	s.keepOrder(vs)

	final := make([]item, 0, len(s.items))
	var again, moving retry
	for i := range s.items {
		it, v := &s.items[i], &vs[i]
		switch {
		case !v.retry:
			it.finish(rs[i].Offset, v)
			final = append(final, *it)
		case s.mayMove(it, v):
			moving.add(it, &s.recs[i])
		default:
			again.add(it, &s.recs[i])
		}
	}
	s.letGo(final, vs, again)
	if len(moving.items) > 0 {
		s.move(moving, wait)
	}
	if len(again.items) > 0 {
		s.attempt++
		s.e.m.retries.Inc()
		s.e.later(wait, s.again)
	} else {
		s.finish()
	}
	settle(final)
}

// retry gathers messages that are tried again.
type retry struct {
	items []item
	recs  []mq.Record
}

func (r *retry) add(it *item, rec *mq.Record) {
	r.items, r.recs = append(r.items, *it), append(r.recs, *rec)
}

// backoff is how long to wait before the next attempt: doubling with jitter, and
// not past the middle of what is left, so that a last attempt fits in.
func (s *slice) backoff() time.Duration {
	d := min(firstBackoff<<min(s.attempt, 10), maxBackoff)
	d = d/2 + rand.N(d/2+1)
	if end, ok := s.ctx.Deadline(); ok {
		d = max(min(d, end.Sub(s.e.now())/2), firstBackoff/2)
	}
	return d
}

// inTime ends the retries of messages whose next attempt would come after the
// deadline, whose caller went away, or whose node stops for good.
func (s *slice) inTime(vs []verdict, next time.Time) {
	stopped := s.e.ctx.Err() != nil
	for i := range vs {
		if !vs[i].retry {
			continue
		}
		b := s.items[i].b
		end, _ := b.ctx.Deadline()
		if stopped || !next.Before(end) || b.caller.Err() != nil {
			vs[i].retry = false
		}
	}
}

// keepOrder looks at the keyed messages that would be retried. One whose later
// neighbour of the same key is in the log already must not come after it. One
// whose earlier neighbour failed for good must not come without it.
func (s *slice) keepOrder(vs []verdict) {
	keys := s.keyHashes()
	if keys == nil {
		return
	}
	reached := map[uint64]bool{}
	for i := len(vs) - 1; i >= 0; i-- {
		v := &vs[i]
		switch {
		case !s.items[i].keyed:
		case v.reached():
			reached[keys[i]] = true
		case v.retry && reached[keys[i]]:
			v.retry = false
			s.e.m.orderGaps.Inc()
		}
	}
	failed := map[uint64]bool{}
	for i := range vs {
		v := &vs[i]
		switch {
		case !s.items[i].keyed:
		case v.retry && failed[keys[i]]:
			*v = verdict{status: NotSent, err: errPreceding, preceded: true}
		case !v.retry && !v.stored():
			failed[keys[i]] = true
		}
	}
}

// keyHashes names the key of each message; nil where none has one.
func (s *slice) keyHashes() []uint64 {
	var keys []uint64
	for i := range s.items {
		it := &s.items[i]
		if !it.keyed {
			continue
		}
		if keys == nil {
			keys = make([]uint64, len(s.items))
		}
		keys[i] = it.b.keyHash(it.message().Key)
	}
	return keys
}

// mayMove tells whether a message that is certainly not stored may go to
// another broker: un-keyed ones, once theirs is known to be down or failed again.
func (s *slice) mayMove(it *item, v *verdict) bool {
	if it.keyed || it.message().Partition != "" || !v.elsewhere {
		return false
	}
	return s.attempt+1 >= moveAfter || !s.latest().layout.isUp(s.part)
}

// latest is what is known of the topic by now.
func (s *slice) latest() *targetState {
	if now := s.state.t.state.Load(); now != nil {
		return now
	}
	return s.state
}

// move sends messages to the next healthy partition on another broker, or again
// to their own where there is none.
func (s *slice) move(r retry, wait time.Duration) {
	state := s.latest()
	to, ok := state.layout.elsewhere(s.part)
	if !ok {
		to, state = s.part, s.state
	} else {
		s.e.m.moved.WithLabelValues("failed").Add(float64(len(r.items)))
	}
	m := &slice{
		e: s.e, state: state, producer: state.producer, part: to, id: state.layout.parts[to].ID,
		ctx: soonest(r.items), items: r.items, recs: r.recs, attempt: s.attempt + 1,
	}
	for i := range m.items {
		it := &m.items[i]
		it.b.results[it.i].Partition = state.layout.names[to]
	}
	s.e.m.retries.Inc()
	s.e.later(wait, m.again)
}

// soonest is the context of the items that ends first.
func soonest(items []item) context.Context {
	c := items[0].b.ctx
	for i := range items[1:] {
		c = sooner(c, items[i+1].b.ctx)
	}
	return c
}

// again produces the slice once more, through the driver that the cluster has by now.
func (s *slice) again() {
	driver, err := s.e.clusters.Driver(s.state.t.cluster)
	if err != nil {
		rs := make([]mq.Result, len(s.items))
		for i := range rs {
			rs[i].Err = &mq.Error{Class: mq.Closed, Msg: "the cluster is not at hand", Cause: err}
		}
		s.judge(rs)
		return
	}
	if driver != s.state.driver {
		s.producer = driver.Producer()
	}
	s.produce()
}

// later runs f after d; when the engine is through, at once.
func (e *Engine) later(d time.Duration, f func()) {
	e.spawnMu.Lock()
	if e.ctx.Err() != nil {
		e.spawnMu.Unlock()
		f()
		return
	}
	e.wg.Add(1)
	e.spawnMu.Unlock()
	time.AfterFunc(d, func() {
		defer e.wg.Done()
		f()
	})
}

// letGo refuses the keys of messages that failed, forgets those of messages that
// are settled, and leaves the slice with what is tried again.
func (s *slice) letGo(final []item, vs []verdict, again retry) {
	st := s.stream
	if st == nil {
		s.items, s.recs = again.items, again.recs
		s.narrow()
		return
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	k := 0
	for i := range vs {
		if vs[i].retry {
			continue
		}
		if it := &final[k]; it.keyed && !vs[i].stored() && !vs[i].preceded {
			st.markSettled(it)
		}
		k++
	}
	for i := range final {
		if final[i].keyed {
			st.letGo(final[i].key, s)
		}
	}
	s.items, s.recs = again.items, again.recs
	s.own()
	s.narrow()
}

// narrow takes the deadline of the messages that are left.
func (s *slice) narrow() {
	if len(s.items) > 0 {
		s.ctx = soonest(s.items)
	}
}

// finish lets go of the keys and sends what waited for this slice.
func (s *slice) finish() {
	st := s.stream
	if st == nil {
		return
	}
	var ready []*slice
	st.mu.Lock()
	for i := range s.items {
		if s.items[i].keyed {
			st.letGo(s.items[i].key, s)
		}
	}
	for _, n := range s.next {
		if n.waits--; n.waits == 0 {
			ready = append(ready, n)
		}
	}
	s.next = nil
	st.mu.Unlock()
	for _, n := range ready {
		if !s.e.spawn(n.release) {
			n.release() // the engine is through: it only gives results
		}
	}
}

// store writes the result of a message that is in a broker's log.
func (it *item) store(offset int64, status Status, err *fault.Error) {
	r := &it.b.results[it.i]
	r.Status, r.Offset, r.Err = status, offset, err
	if r.ID == "" {
		r.ID = fmt.Sprintf("%s/%s/%s/%d", r.Cluster, it.b.state.t.topic, r.Partition, offset)
	}
}

// finish writes a final result.
func (it *item) finish(offset int64, v *verdict) {
	if v.stored() {
		it.store(offset, v.status, v.err)
		return
	}
	r := &it.b.results[it.i]
	r.Status, r.Err = v.status, v.err
}

// settle counts messages that have their results, batch by batch.
func settle(items []item) {
	for i := 0; i < len(items); {
		b, n := items[i].b, 1
		for i+n < len(items) && items[i+n].b == b {
			n++
		}
		i += n
		b.settled(n)
	}
}
