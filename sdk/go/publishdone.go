package sluice

import (
	"time"

	"github.com/sluice-mq/sluice/sdk/go/internal/outbox"
)

// finished turns final results of the machine into results for the callers.
func (p *Publisher) finished(now time.Time, done []outbox.Done) {
	if len(done) == 0 {
		return
	}
	bytes, callbacks := 0, 0
	for i := range done {
		d := &done[i]
		x := d.Item.Value.(*pending)
		p.conclude(x, d)
		bytes += d.Item.Size
		if hook := p.c.opts.hooks.OnPublish; hook != nil {
			hook(PublishEvent{Topic: p.topic, Result: x.result, Took: now.Sub(x.added)})
		}
		if x.callback == nil {
			x.finished <- struct{}{}
			continue
		}
		callbacks++
	}
	if callbacks > 0 {
		p.cbMu.Lock()
		for i := range done {
			if x := done[i].Item.Value.(*pending); x.callback != nil {
				p.callbacks = append(p.callbacks, x)
				bytes -= x.item.Size // given back when the callback runs
			}
		}
		p.cbMu.Unlock()
		p.signalCallbacks()
	}
	if n := len(done) - callbacks; n > 0 {
		p.settle(bytes, n)
	}
}

// settle gives back the space of messages that have their results.
func (p *Publisher) settle(bytes, messages int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.space.give(bytes, messages)
	p.pendings -= messages
	if p.pendings == 0 && p.idle != nil {
		close(p.idle)
		p.idle = nil
	}
}

var statuses = map[outbox.Status]Status{
	outbox.Stored: StatusStored, outbox.NotReplicated: StatusStoredNotReplicated, outbox.NotSent: StatusNotSent,
	outbox.MaybeSent: StatusMaybeSent, outbox.Refused: StatusRefused,
}

// conclude writes the caller's result.
func (p *Publisher) conclude(x *pending, d *outbox.Done) {
	r := &x.result
	if d.Status == outbox.Stored {
		r.Status = StatusStored
		return
	}
	r.Status = statuses[d.Status]
	if d.Status == outbox.NotReplicated && (p.opts.durability == Any || d.Err == nil) {
		return
	}
	var e *Error
	switch d.Why {
	case outbox.Deadline:
		e = failure(ReasonDeadlineExceeded, "no result for the message to %s by its deadline", p.topic)
		e.Cause = d.Err
	case outbox.Cancelled:
		e = failure(ReasonCancelled, "the caller stopped waiting for the message to %s", p.topic)
		e.Cause = d.Err
	case outbox.Preceding:
		e = failure(ReasonPrecedingFailed, "an earlier message of the same key failed; send again from that one")
	case outbox.Answered, outbox.Failed:
		if given, ok := d.Err.(*Error); ok && given != nil { //nolint:errorlint // verdicts carry nothing else
			copied := *given
			e = &copied
		} else {
			e = failure(ReasonInternal, "the node gave no reason")
		}
	}
	e.Status = r.Status
	e.MaybeSent = r.Status == StatusMaybeSent || r.Status == StatusStoredNotReplicated
	r.Err = e
}

// runCallbacks calls back, one result after the other.
func (p *Publisher) runCallbacks() {
	var batch []*pending
	for {
		p.cbMu.Lock()
		batch, p.callbacks = p.callbacks, batch[:0]
		closed := p.cbClosed
		p.cbMu.Unlock()
		for i, x := range batch {
			batch[i] = nil
			x.callback(x.result)
			p.settle(x.item.Size, 1)
		}
		if len(batch) > 0 {
			continue
		}
		if closed {
			return
		}
		<-p.cbWake
	}
}

func (p *Publisher) closeCallbacks() {
	p.cbMu.Lock()
	p.cbClosed = true
	p.cbMu.Unlock()
	p.signalCallbacks()
}

func (p *Publisher) signalCallbacks() {
	select {
	case p.cbWake <- struct{}{}:
	default:
	}
}

func (p *Publisher) reconnected(node string, err *Error) {
	if hook := p.c.opts.hooks.OnReconnect; hook != nil {
		e := ReconnectEvent{Topic: p.topic, Node: node}
		if err != nil {
			e.Err = err
		}
		hook(e)
	}
}
