package sluice

import (
	"context"
	"sync"
	"time"

	"github.com/sluice-mq/sluice/sdk/go/internal/outbox"
	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
)

// messageOverhead is about what a message takes beside its content: id, sequence, lengths.
const messageOverhead = 64

// Publisher publishes to one topic. It may be used from many goroutines: messages of one key keep the order in which
// the calls were made. It holds one stream to one node at a time; when that is lost, what has no answer yet goes again,
// in order and with the same ids, through another node.
//
// A message is sent again only where that cannot hide an error: what a node proved not sent (for a reason that passes),
// and what was out when the connection was lost. A node's own "maybe sent" is reported as it is.
type Publisher struct {
	c     *Client
	topic string
	opts  publisherOptions

	mu       sync.Mutex // guards what follows, up to the blank line
	space    space
	sequence uint64
	inbox    []*pending
	events   []event
	flush    bool
	woken    bool          // the loop has been told of the inbox
	pendings int           // without a result
	idle     chan struct{} // closed when pendings falls to 0; nil: nobody waits
	closed   bool

	wake chan struct{} // 1 deep: inbox, events or flush changed
	stop context.CancelFunc
	ctx  context.Context
	wg   sync.WaitGroup

	cbMu      sync.Mutex // guards callbacks, cbClosed
	callbacks []*pending
	cbClosed  bool
	cbWake    chan struct{} // 1 deep
}

// pending is a message on its way.
type pending struct {
	item     outbox.Item
	msg      sluicev1.Message
	added    time.Time
	result   Result
	callback func(Result)
	finished chan struct{} // 1 deep; nil with a callback
}

// Publisher makes a publisher for a topic. It costs a stream and a few goroutines: keep it, and close it at the end.
func (c *Client) Publisher(topic string, opts ...PublisherOption) *Publisher {
	o := publisherOptions{
		linger: 2 * time.Millisecond, batchBytes: 64 << 10, batchMessages: 1000, timeout: 10 * time.Second,
		bufferedBytes: 32 << 20, bufferedMessages: 10_000,
	}
	for _, opt := range opts {
		opt(&o)
	}
	o.fix()
	p := &Publisher{c: c, topic: topic, opts: o, wake: make(chan struct{}, 1), cbWake: make(chan struct{}, 1)}
	p.space = space{bytes: o.bufferedBytes, messages: o.bufferedMessages}
	p.ctx, p.stop = context.WithCancel(context.Background())
	if err := c.add(p); err != nil {
		p.closed = true
		p.stop()
		return p
	}
	l := newPublishLoop(p)
	p.wg.Go(l.run)
	p.wg.Go(p.runCallbacks)
	return p
}

// fix replaces what is out of range by the nearest that is not.
func (o *publisherOptions) fix() {
	if o.producer == "" {
		o.producer = newID(time.Now())
	}
	o.linger = max(o.linger, 0)
	o.batchMessages = min(max(o.batchMessages, 1), 1000)
	o.batchBytes = min(max(o.batchBytes, 1), maxMessageBytes)
	if o.timeout <= 0 {
		o.timeout = 10 * time.Second
	}
	o.timeout = min(o.timeout, time.Minute)
	o.bufferedBytes = max(o.bufferedBytes, maxMessageBytes+messageOverhead) // else the largest message would never fit
	o.bufferedMessages = max(o.bufferedMessages, 1)
}

// Publish sends one message and waits for its result; the error is the result's. When ctx ends first, a message that is
// on its way is reported as maybe sent, one that has not left as not sent, and it will not leave any more.
func (p *Publisher) Publish(ctx context.Context, m Message) (Result, error) {
	x, fail := p.hand(ctx, &m, nil, true)
	if x == nil {
		return fail, fail.Err
	}
	p.wait(ctx, x)
	return x.result, x.result.Err
}

// PublishAsync hands a message over and calls done exactly once with its result, later, from a goroutine of the
// publisher's: one call at a time, in the order in which results come. PublishAsync itself waits only while the
// publisher's buffer is full, for as long as ctx lasts. The end of ctx after that changes nothing but the message's
// deadline. done must not block, and must not wait for the publisher.
func (p *Publisher) PublishAsync(ctx context.Context, m Message, done func(Result)) {
	if x, fail := p.hand(ctx, &m, done, true); x == nil {
		done(fail)
	}
}

// PublishBatch sends messages at once and waits for all results, which it returns in the order of the messages. Ids
// that it makes are written into msgs, so that sending again what failed keeps them. One message that fails does not fail its neighbours, but the later ones of its key.
func (p *Publisher) PublishBatch(ctx context.Context, msgs []Message) []Result {
	results := make([]Result, len(msgs))
	xs := make([]*pending, len(msgs))
	var failed map[string]bool // keys of which a message could not even be handed over
	for i := range msgs {
		m := &msgs[i]
		if m.Key != nil && failed[string(m.Key)] {
			if m.ID == "" {
				m.ID = newID(time.Now())
			}
			results[i] = p.fail(time.Now(), m.ID, StatusNotSent, failure(ReasonPrecedingFailed, "an earlier message of the same key failed; send again from that one"))
			continue
		}
		xs[i], results[i] = p.hand(ctx, m, nil, false) // not woken yet, so that it leaves together
		if xs[i] == nil && m.Key != nil {
			if failed == nil {
				failed = map[string]bool{}
			}
			failed[string(m.Key)] = true
		}
	}
	p.hurry()
	for i, x := range xs {
		if x != nil {
			p.wait(ctx, x)
			results[i] = x.result
		}
	}
	return results
}

// Flush lets everything handed over so far leave without lingering and waits until every message has its result, also
// those handed over meanwhile.
func (p *Publisher) Flush(ctx context.Context) error {
	p.mu.Lock()
	if p.pendings == 0 {
		p.mu.Unlock()
		return nil
	}
	if p.idle == nil {
		p.idle = make(chan struct{})
	}
	idle := p.idle
	p.flush = true
	p.mu.Unlock()
	p.signal()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return &Error{Reason: ReasonDeadlineExceeded, MaybeSent: true, Message: "flush of topic " + p.topic + " did not end in time; messages are still on their way", Cause: context.Cause(ctx)}
	}
}

// Close flushes and ends the publisher. What has no result when ctx ends is given up: every callback has been called
// when Close returns. Publishing afterwards fails as cancelled.
func (p *Publisher) Close(ctx context.Context) error {
	p.mu.Lock()
	p.closed = true
	p.space.wakeAll()
	p.mu.Unlock()
	err := p.Flush(ctx)
	p.stop()
	p.wg.Wait()
	p.c.remove(p)
	return err
}

// hand checks a message, waits for space and queues it. Where it fails it returns nil and the result.
func (p *Publisher) hand(ctx context.Context, m *Message, callback func(Result), wake bool) (*pending, Result) {
	now := time.Now()
	if m.ID == "" {
		m.ID = newID(now)
	}
	if err := m.check(); err != nil {
		return nil, p.fail(now, m.ID, StatusRefused, err)
	}
	x := &pending{added: now, callback: callback}
	x.result.ID = m.ID
	x.item.Size = m.size() + messageOverhead
	x.item.Key = m.Key
	x.item.Value = x
	x.item.Deadline = now.Add(p.opts.timeout)
	if d, ok := ctx.Deadline(); ok && d.Before(x.item.Deadline) {
		x.item.Deadline = d
	}
	if callback == nil {
		x.finished = make(chan struct{}, 1)
	}
	if inject := p.c.opts.hooks.Inject; inject != nil {
		m.fill(&x.msg, func(set func(name, value string)) { inject(ctx, set) })
	} else {
		m.fill(&x.msg, nil)
	}
	if err := p.queue(ctx, x, wake); err != nil {
		return nil, p.fail(now, m.ID, StatusNotSent, err)
	}
	return x, Result{}
}

func (p *Publisher) fail(added time.Time, id string, s Status, err *Error) Result {
	err.Status = s
	r := Result{ID: id, Status: s, Err: err}
	if hook := p.c.opts.hooks.OnPublish; hook != nil {
		hook(PublishEvent{Topic: p.topic, Result: r, Took: time.Since(added)})
	}
	return r
}

// queue puts x into the inbox once there is space for it.
func (p *Publisher) queue(ctx context.Context, x *pending, wake bool) *Error {
	p.mu.Lock()
	for !p.closed && !p.space.take(x.item.Size) {
		turn := p.space.wait()
		p.mu.Unlock()
		p.hurry()
		select {
		case <-turn:
			p.mu.Lock()
		case <-ctx.Done():
			p.mu.Lock()
			p.space.leave(turn)
			p.mu.Unlock()
			return &Error{Reason: ReasonSlowDown, Message: "the publisher of " + p.topic + " is full and its messages did not get their results in time; send less, or raise MaxBuffered", Cause: context.Cause(ctx)}
		}
	}
	defer p.mu.Unlock()
	if p.closed {
		return failure(ReasonCancelled, "the publisher of %s is closed", p.topic)
	}
	p.sequence++
	x.item.Sequence = p.sequence
	x.msg.Sequence = p.sequence
	p.pendings++
	p.inbox = append(p.inbox, x)
	if wake && !p.woken {
		p.woken = true
		p.signal()
	}
	return nil
}

// wait waits for the result, and gives the message up when ctx ends first.
func (p *Publisher) wait(ctx context.Context, x *pending) {
	select {
	case <-x.finished:
	case <-ctx.Done():
		p.post(event{kind: evCancel, cancel: x, err: context.Cause(ctx)})
		<-x.finished
	}
}

// hurry lets what is queued leave without lingering.
func (p *Publisher) hurry() {
	p.mu.Lock()
	p.flush = true
	p.mu.Unlock()
	p.signal()
}

func (p *Publisher) signal() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *Publisher) post(e event) {
	p.mu.Lock()
	p.events = append(p.events, e)
	p.mu.Unlock()
	p.signal()
}
