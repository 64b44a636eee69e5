package sluice

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
)

// Handler works on one delivery. Nil accepts it; an error releases it, to come again by the group's back-off, or as
// ReleaseAfter and Reject say. The context ends only when the draining does, not with Receive's.
type Handler func(ctx context.Context, d *Delivery) error

// ReleaseAfter as a handler's result releases the message, to come again after d.
func ReleaseAfter(d time.Duration, err error) error {
	return &settlement{action: sluicev1.Action_ACTION_RELEASE, delay: d, err: err}
}

// Reject as a handler's result sends the message to the dead letters.
func Reject(err error) error {
	return &settlement{action: sluicev1.Action_ACTION_REJECT, err: err}
}

type settlement struct {
	action sluicev1.Action
	delay  time.Duration
	err    error
}

// Error implements error.
func (s *settlement) Error() string {
	if s.err == nil {
		return "no cause was given"
	}
	return s.err.Error()
}

// Unwrap gives the cause.
func (s *settlement) Unwrap() error { return s.err }

// PanicError is a handler's panic. The message is released like one whose handler failed.
type PanicError struct {
	Value any
	Stack []byte
}

// Error implements error.
func (p *PanicError) Error() string { return fmt.Sprintf("handler panicked: %v", p.Value) }

// Receive calls handler for each message of a subscription until ctx ends or the client is closed, up to Concurrency at
// once: in an ordered group messages of one run one after the other, in order. Then it asks for nothing more, lets
// handlers end as Subscription.Drain says, gives back the rest, and returns nil once every handler has returned. It
// returns an *Error where the subscription is refused or cannot go on.
//
// A handler that settles its delivery itself (Accept, Release, Reject) has the last word; its result is then ignored.
// Leases are renewed while a handler works. Panics are reported to Subscription.OnError and to the log (slog's default
// where the client has none), and the message is released.
func (c *Client) Receive(ctx context.Context, sub Subscription, handler Handler) error {
	r, err := c.newReceiver(sub, false)
	if err != nil {
		return err
	}
	handlerCtx, endHandlers := context.WithCancel(context.WithoutCancel(ctx))
	defer endHandlers()
	w := &workers{r: r, handler: handler, ctx: handlerCtx}
	for range r.sub.Concurrency {
		w.wg.Go(w.run)
	}
	stopped := r.await(ctx, func() bool { return r.closing || r.fatal != nil })
	w.drain(endHandlers)
	r.shut(context.WithoutCancel(ctx))
	r.mu.Lock()
	defer r.mu.Unlock()
	if stopped && r.fatal != nil {
		return r.fatal
	}
	return nil
}

// workers run a handler.
type workers struct {
	r       *Receiver
	handler Handler
	ctx     context.Context // the handlers'
	wg      sync.WaitGroup
}

// run works until nothing comes any more.
func (w *workers) run() {
	for {
		l, change, over := w.next()
		switch {
		case l != nil:
			w.work(l)
		case over:
			return
		default:
			<-change
		}
	}
}

func (w *workers) next() (l *lease, change chan struct{}, over bool) {
	r := w.r
	r.mu.Lock()
	defer r.mu.Unlock()
	if l = r.dispatch.pop(); l != nil {
		l.state = leaseHanded
		return l, nil, false
	}
	return nil, r.change, (r.closing || r.fatal != nil) && r.dispatch.len() == 0
}

// work runs the handler on one delivery and settles it as it says.
func (w *workers) work(l *lease) {
	r := w.r
	r.delivered([]*Delivery{l.d})
	err := w.call(l.d)
	action, delay, cause := sluicev1.Action_ACTION_ACCEPT, time.Duration(0), ""
	if err != nil {
		action, cause = sluicev1.Action_ACTION_RELEASE, err.Error()
		if s, ok := errors.AsType[*settlement](err); ok {
			action, delay = s.action, s.delay
		}
	}
	_ = r.settle(l, action, delay, cause, nil) // refused only where the handler settled it itself
	r.mu.Lock()
	r.dispatch.done(l) // what becomes ready by this, this worker takes itself
	if r.closing || r.fatal != nil {
		r.changed()
	}
	r.mu.Unlock()
	if err != nil && r.sub.OnError != nil {
		r.sub.OnError(l.d, err)
	}
}

func (w *workers) call(d *Delivery) (err error) {
	ctx := w.ctx
	if extract := w.r.c.opts.hooks.Extract; extract != nil {
		ctx = extract(ctx, func(name string) string {
			v, _ := d.Header(name)
			return string(v)
		})
	}
	defer func() {
		if v := recover(); v != nil {
			p := &PanicError{Value: v, Stack: debug.Stack()}
			err = p
			log := w.r.c.log
			if !log.Enabled(ctx, slog.LevelError) {
				log = slog.Default()
			}
			log.Error("handler panicked; the message is released", "group", w.r.sub.Group, "topic", d.Topic, "partition", d.Partition, "offset", d.Offset, "err", p, "stack", string(p.Stack))
		}
	}()
	return w.handler(ctx, d)
}

// drain lets the workers finish.
func (w *workers) drain(endHandlers context.CancelFunc) {
	r := w.r
	limit := r.sub.Drain
	r.mu.Lock()
	r.beginClosing()
	if limit < 0 {
		r.returnQueued(func(*lease) bool { return true })
		r.changed()
		endHandlers()
	}
	r.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.wg.Wait()
	}()
	if limit > 0 {
		// In the last second nothing new is begun.
		last := time.NewTimer(max(limit-time.Second, limit/2))
		end := time.NewTimer(limit)
		defer last.Stop()
		defer end.Stop()
		for running := true; running; {
			select {
			case <-done:
				running = false
			case <-last.C:
				r.mu.Lock()
				r.returnQueued(func(*lease) bool { return true })
				r.changed()
				r.mu.Unlock()
			case <-end.C:
				endHandlers()
				running = false
			case <-r.hurry:
				r.mu.Lock()
				r.returnQueued(func(*lease) bool { return true })
				r.changed()
				r.mu.Unlock()
				endHandlers()
				running = false
			}
		}
	}
	<-done
}
