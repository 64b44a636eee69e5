package sluice

import (
	"context"
	"time"

	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
)

// lease is what the client holds of a delivered message; the receiver's mutex guards it.
type lease struct {
	r       *Receiver
	s       *consumeStream
	d       *Delivery
	receipt []byte
	state   leaseState
	// renewAt is when the lease is at its half, end when it runs out, renewUntil when it is renewed no more; by the
	// monotonic clock of this process.
	renewAt, end, renewUntil time.Time
	renewing                 bool
	lost                     bool // the node has taken it back: not renewed any more
}

type leaseState int

const (
	leaseQueued   leaseState = iota // waits here for the application
	leaseHanded                     // the application has it
	leaseSettling                   // its settlement is on its way
	leaseEnded
)

func (l *lease) runKey() runKey { return runKey{l.s, l.d.Run} }

// job is one ack on its way to its answer.
type job struct {
	l      *lease
	ack    *sluicev1.Ack
	answer chan *Error // 1 deep; nil: nobody waits
	since  time.Time   // when it lost its stream; zero: it has not
}

func (j *job) renews() bool { return j.ack.GetAction() == sluicev1.Action_ACTION_RENEW }

// Accept settles the message as done. Nil means recorded by its owner. Errors are *Error: ReasonReassigned and
// ReasonLeaseExpired (it is delivered again), ReasonAlreadySettled (a mistake of the program), ReasonUnavailable with
// MaybeSent where no node answered. The end of ctx ends the waiting, not the settling.
func (d *Delivery) Accept(ctx context.Context) error {
	return d.settle(ctx, sluicev1.Action_ACTION_ACCEPT, 0, "")
}

// Release gives the message back, to be delivered again after a delay, or after the group's back-off where it is 0. In
// an ordered group the later messages of its run come again after it: those that are here already are given back too, and
// settling them fails with ReasonAlreadySettled. Errors are those of Accept.
func (d *Delivery) Release(ctx context.Context, delay time.Duration) error {
	return d.settle(ctx, sluicev1.Action_ACTION_RELEASE, delay, "")
}

// Reject sends the message to the dead letters, with the reason why. Errors are those of Accept.
func (d *Delivery) Reject(ctx context.Context, why string) error {
	return d.settle(ctx, sluicev1.Action_ACTION_REJECT, 0, why)
}

// Renew makes the lease end after a time from now; 0: the lease time of the subscription. It never undoes a settlement.
// Errors are those of Accept.
func (d *Delivery) Renew(ctx context.Context, after time.Duration) error {
	return d.settle(ctx, sluicev1.Action_ACTION_RENEW, after, "")
}

func (d *Delivery) settle(ctx context.Context, a sluicev1.Action, delay time.Duration, cause string) error {
	if d.lease == nil {
		return failure(ReasonInvalidArgument, "the delivery %s was not made by a receiver", d.ID)
	}
	answer := make(chan *Error, 1)
	if err := d.lease.r.settle(d.lease, a, delay, cause, answer); err != nil {
		return err
	}
	select {
	case err := <-answer:
		if err != nil {
			return err
		}
		return nil
	case <-ctx.Done():
		return &Error{Reason: ReasonCancelled, MaybeSent: true, Message: "the caller stopped waiting for the answer; the settlement is on its way", Cause: context.Cause(ctx)}
	}
}

// maxCause is what of a cause is kept.
const maxCause = 1 << 10

// settle sends an ack on its way; answer may be nil.
func (r *Receiver) settle(l *lease, a sluicev1.Action, delay time.Duration, cause string, answer chan *Error) *Error {
	if len(cause) > maxCause {
		cause = cause[:maxCause]
	}
	cause = validText(cause)
	r.mu.Lock()
	defer r.mu.Unlock()
	if l.state >= leaseSettling {
		return failure(ReasonAlreadySettled, "the message %s was settled, or given back, before", l.d.ID)
	}
	j := &job{l: l, answer: answer, ack: &sluicev1.Ack{
		Receipt: l.receipt, Action: a, DelayMs: uint32(min(max(delay.Milliseconds(), 0), 1<<32-1)), Cause: cause,
	}}
	if !j.renews() {
		l.state = leaseSettling
	}
	r.enqueue(j)
	if a == sluicev1.Action_ACTION_RELEASE {
		r.giveBackRun(l)
	}
	return nil
}

// giveBackRun returns what came behind l in its run: it is delivered again after l. The mutex is held.
func (r *Receiver) giveBackRun(l *lease) {
	if l.d.Run == 0 {
		return
	}
	l.s.breakRun(l.d.Run)
	behind := func(x *lease) bool {
		return x != l && x.runKey() == l.runKey() && x.d.Offset > l.d.Offset && x.d.Partition == l.d.Partition && x.d.Cluster == l.d.Cluster && x.d.Topic == l.d.Topic
	}
	r.dispatch.drop(behind)
	for _, x := range r.inOrder(behind) {
		r.giveBack(x)
	}
}

// giveBack returns a lease unseen, at once and without counting an attempt. The mutex is held.
func (r *Receiver) giveBack(l *lease) {
	if l.state >= leaseSettling {
		return
	}
	l.state = leaseSettling
	r.enqueue(&job{l: l, ack: &sluicev1.Ack{Receipt: l.receipt, Action: sluicev1.Action_ACTION_RETURN}})
}

// enqueue hands an ack to its stream, or to whoever settles for dead streams. The mutex is held.
func (r *Receiver) enqueue(j *job) {
	r.jobs++
	if j.l.s.writable() {
		j.l.s.add(j)
		return
	}
	r.orphan(j)
}

// resolve ends a job with its answer.
func (r *Receiver) resolve(j *job, err *Error) {
	r.mu.Lock()
	r.jobs--
	l := j.l
	if j.renews() {
		l.renewing = false
		if err == nil {
			r.renewed(l, j.ack.GetDelayMs())
		} else if err.Reason == ReasonLeaseExpired || err.Reason == ReasonReassigned {
			r.lose(l)
		}
	} else {
		r.end(l)
	}
	quiet := r.jobs == 0
	if quiet {
		r.changed()
	}
	r.mu.Unlock()
	if hook := r.c.opts.hooks.OnSettle; hook != nil {
		e := SettleEvent{Group: r.sub.Group, Delivery: l.d, Action: actionName(j.ack.GetAction())}
		if err != nil {
			e.Err = err
		}
		hook(e)
	}
	if err != nil {
		r.c.log.Debug("settlement failed", "group", r.sub.Group, "id", l.d.ID, "action", actionName(j.ack.GetAction()), "err", err)
	}
	if j.answer != nil {
		j.answer <- err
	}
}

// end forgets a lease and frees its place. The mutex is held.
func (r *Receiver) end(l *lease) {
	if l.state == leaseEnded {
		return
	}
	l.state = leaseEnded
	delete(r.leases, string(l.receipt))
	r.credits.settled(l.s.share, 1)
	r.grant()
	if l.s.leaving {
		r.kick()
	}
}

// lose notes that the node took a lease back: what the application has not seen yet is dropped, with what is ordered
// behind it. The mutex is held.
func (r *Receiver) lose(l *lease) {
	l.lost = true
	for _, x := range r.dispatch.drop(func(x *lease) bool { return x == l }) {
		r.end(x)
	}
	r.giveBackRun(l)
}

func (r *Receiver) renewed(l *lease, delayMs uint32) {
	d := time.Duration(delayMs) * time.Millisecond
	if d == 0 {
		d = l.s.lease
	}
	now := time.Now()
	l.renewAt, l.end = now.Add(d/2), now.Add(d)
}

// renew prolongs the leases that are at their half. The mutex is held.
func (r *Receiver) renew(now time.Time) {
	if r.sub.MaxLease < 0 {
		return
	}
	for _, l := range r.leases {
		if l.state > leaseHanded || l.renewing || l.lost || now.Before(l.renewAt) || now.After(l.renewUntil) {
			continue
		}
		l.renewing = true
		r.enqueue(&job{l: l, ack: &sluicev1.Ack{Receipt: l.receipt, Action: sluicev1.Action_ACTION_RENEW}})
	}
}

func actionName(a sluicev1.Action) string {
	switch a {
	case sluicev1.Action_ACTION_ACCEPT:
		return "accept"
	case sluicev1.Action_ACTION_RELEASE:
		return "release"
	case sluicev1.Action_ACTION_REJECT:
		return "reject"
	case sluicev1.Action_ACTION_RENEW:
		return "renew"
	case sluicev1.Action_ACTION_RETURN:
		return "return"
	default:
		return "unknown"
	}
}
