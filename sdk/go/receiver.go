package sluice

import (
	"cmp"
	"context"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"
)

// closeGrace is how long closing waits for the answers to what was settled last.
const closeGrace = 3 * time.Second

// Receiver consumes message by message: take deliveries with Next or All, settle each. It keeps one stream to each node
// that serves the group and follows the changes of that set. It may be used from many goroutines.
type Receiver struct {
	c   *Client
	sub Subscription

	mu       sync.Mutex // guards what follows, up to the blank line, and all streams and leases
	credits  credits
	dispatch dispatch
	leases   map[string]*lease // not ended, by receipt
	targets  map[string]*target
	group    []string // addresses of the nodes that serve the group; empty: unknown
	orphans  []*job
	jobs     int           // acks without an answer
	streams  int           // running
	change   chan struct{} // closed and replaced when something changed that someone may wait for
	opened   bool          // a stream was opened once
	closing  bool          // nothing more is asked for; what comes is given back
	fatal    *Error

	kicks      chan struct{} // 1 deep: the manager should look
	orphanKick chan struct{} // 1 deep
	ctx        context.Context
	stop       context.CancelFunc
	wg         sync.WaitGroup
	closeOnce  sync.Once
	closed     chan struct{}
	hurryOnce  sync.Once
	hurry      chan struct{} // closed: a running Receive must not wait for its handlers' contexts any more
}

// Receiver subscribes and returns once the first node has taken the subscription. It fails where the subscription is
// refused (ReasonSubscriptionConflict, ReasonTopicNotFound, ...), or when ctx ends before. Close it.
func (c *Client) Receiver(ctx context.Context, sub Subscription) (*Receiver, error) {
	r, err := c.newReceiver(sub, true)
	if err != nil {
		return nil, err
	}
	for {
		r.mu.Lock()
		opened, fatal, change := r.opened, r.fatal, r.change
		r.mu.Unlock()
		switch {
		case fatal != nil:
			r.shut(ctx)
			return nil, fatal
		case opened:
			return r, nil
		}
		select {
		case <-change:
		case <-ctx.Done():
			last := r.lastFailure()
			r.shut(context.WithoutCancel(ctx))
			return nil, &Error{Reason: ReasonUnavailable, Message: "no node took the subscription of group " + sub.Group + " in time", Cause: cmp.Or(last, context.Cause(ctx))}
		}
	}
}

func (c *Client) newReceiver(sub Subscription, free bool) (*Receiver, *Error) {
	if err := sub.fix(); err != nil {
		return nil, err
	}
	r := &Receiver{
		c: c, sub: sub, credits: credits{max: sub.MaxInFlight}, dispatch: dispatch{free: free, runs: map[runKey]*run{}},
		leases: map[string]*lease{}, targets: map[string]*target{}, change: make(chan struct{}),
		kicks: make(chan struct{}, 1), orphanKick: make(chan struct{}, 1), closed: make(chan struct{}),
		hurry: make(chan struct{}),
	}
	r.ctx, r.stop = context.WithCancel(context.Background())
	if err := c.add(r); err != nil {
		r.stop()
		return nil, errClosed()
	}
	r.wg.Go(r.manage)
	r.wg.Go(r.settleOrphans)
	return r, nil
}

// Next waits up to wait for the first message, then returns what is here, at most n; none and no error where nothing
// came. Settle each delivery; those with the same Run one after the other, in the order of the slice. It fails when ctx
// ends, the receiver is closed, or the subscription cannot go on.
func (r *Receiver) Next(ctx context.Context, n int, wait time.Duration) ([]*Delivery, error) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		r.mu.Lock()
		ds := r.hand(n)
		fatal, closing, change := r.fatal, r.closing, r.change
		r.mu.Unlock()
		switch {
		case len(ds) > 0:
			r.delivered(ds)
			return ds, nil
		case fatal != nil:
			return nil, fatal
		case closing:
			return nil, failure(ReasonCancelled, "the receiver of group %s is closed", r.sub.Group)
		}
		select {
		case <-change:
		case <-timer.C:
			return nil, nil
		case <-ctx.Done():
			return nil, &Error{Reason: ReasonCancelled, Message: "waiting for messages of group " + r.sub.Group + " was ended", Cause: context.Cause(ctx)}
		}
	}
}

// All iterates over messages as they come; settle each. It ends with an error when ctx ends, the receiver is closed, or the
// subscription cannot go on.
func (r *Receiver) All(ctx context.Context) iter.Seq2[*Delivery, error] {
	return func(yield func(*Delivery, error) bool) {
		for {
			ds, err := r.Next(ctx, 1, time.Minute)
			if err != nil {
				yield(nil, err)
				return
			}
			for _, d := range ds {
				if !yield(d, nil) {
					return
				}
			}
		}
	}
}

// Close gives back what was not settled, waits for the answers to what was, and leaves the group's nodes. Settling a
// message afterwards fails. When ctx ends earlier, leases that could not be given back run to their deadlines.
func (r *Receiver) Close(ctx context.Context) error {
	if !r.dispatch.free {
		return r.closeHandled(ctx)
	}
	r.mu.Lock()
	r.beginClosing()
	for _, l := range r.inOrder(func(*lease) bool { return true }) {
		r.giveBack(l)
	}
	r.mu.Unlock()
	r.shut(ctx)
	return nil
}

// closeHandled ends the Receive that this receiver belongs to.
func (r *Receiver) closeHandled(ctx context.Context) error {
	r.mu.Lock()
	r.beginClosing()
	r.mu.Unlock()
	select {
	case <-r.closed:
		return nil
	case <-ctx.Done():
		r.hurryOnce.Do(func() { close(r.hurry) })
		return &Error{Reason: ReasonDeadlineExceeded, Message: "handlers of group " + r.sub.Group + " did not end in time; their contexts are cancelled now", Cause: context.Cause(ctx)}
	}
}

// hand takes up to n deliveries out of the queue. The mutex is held.
func (r *Receiver) hand(n int) []*Delivery {
	var ds []*Delivery
	for len(ds) < n {
		l := r.dispatch.pop()
		if l == nil {
			break
		}
		l.state = leaseHanded
		ds = append(ds, l.d)
	}
	return ds
}

func (r *Receiver) delivered(ds []*Delivery) {
	if hook := r.c.opts.hooks.OnDeliver; hook != nil {
		for _, d := range ds {
			hook(DeliverEvent{Group: r.sub.Group, Delivery: d})
		}
	}
}

// beginClosing stops asking and gives back what waits. The mutex is held.
func (r *Receiver) beginClosing() {
	r.closing = true
	r.changed()
	r.kick()
}

// returnQueued gives back what the application has not seen. The mutex is held.
func (r *Receiver) returnQueued(match func(*lease) bool) {
	for _, l := range r.dispatch.drop(match) {
		r.giveBack(l)
	}
}

// inOrder lists open leases in the order they came. The mutex is held.
func (r *Receiver) inOrder(match func(*lease) bool) []*lease {
	var ls []*lease
	for _, l := range r.leases {
		if l.state < leaseSettling && match(l) {
			ls = append(ls, l)
		}
	}
	slices.SortFunc(ls, func(a, b *lease) int {
		return cmp.Or(cmp.Compare(a.d.Topic, b.d.Topic), cmp.Compare(a.d.Partition, b.d.Partition), cmp.Compare(a.d.Offset, b.d.Offset))
	})
	return ls
}

// shut waits a moment for answers, then ends everything. Only the first call does it; the others wait for it.
func (r *Receiver) shut(ctx context.Context) {
	r.closeOnce.Do(func() {
		defer close(r.closed)
		ctx, cancel := context.WithTimeout(ctx, closeGrace)
		defer cancel()
		r.mu.Lock()
		r.beginClosing()
		r.dispatch.drop(func(*lease) bool { return true })
		r.mu.Unlock()
		r.await(ctx, func() bool { return r.jobs == 0 })
		r.mu.Lock()
		for _, t := range r.targets {
			if t.stream != nil {
				t.stream.halfClose()
			}
		}
		r.mu.Unlock()
		r.await(ctx, func() bool { return r.streams == 0 && r.jobs == 0 })
		r.stop()
		r.wg.Wait()
		r.abandon()
		r.c.remove(r)
	})
	<-r.closed
}

// abandon answers what will not be answered any more.
func (r *Receiver) abandon() {
	r.mu.Lock()
	left := r.orphans
	r.orphans = nil
	r.mu.Unlock()
	for _, j := range left {
		r.resolve(j, &Error{Reason: ReasonUnavailable, MaybeSent: true, Message: "the receiver of group " + r.sub.Group + " was closed before an answer came"})
	}
}

// await waits until ok, called under the mutex, or ctx ends.
func (r *Receiver) await(ctx context.Context, ok func() bool) bool {
	for {
		r.mu.Lock()
		done, change := ok(), r.change
		r.mu.Unlock()
		if done {
			return true
		}
		select {
		case <-change:
		case <-ctx.Done():
			return false
		}
	}
}

// changed wakes everyone who waits. The mutex is held.
func (r *Receiver) changed() {
	close(r.change)
	r.change = make(chan struct{})
}

func (r *Receiver) kick() {
	select {
	case r.kicks <- struct{}{}:
	default:
	}
}

// grant gives credit that is free to streams. The mutex is held.
func (r *Receiver) grant() {
	if r.closing {
		return
	}
	r.credits.grant(time.Now(), func(s *share, n int) {
		for _, t := range r.targets {
			if t.stream != nil && t.stream.share == s {
				t.stream.credit += n
				t.stream.signal()
			}
		}
	})
}

func (r *Receiver) lastFailure() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range r.targets {
		if t.err != nil {
			return t.err
		}
	}
	return nil
}

func validText(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
