package sluice

import (
	"errors"
	"time"

	"github.com/sluice-mq/sluice/sdk/go/internal/outbox"
	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
)

const (
	// maxRequests may be out on a stream; its sender's queue is as deep, so that handing over never blocks.
	maxRequests = 64
	// answerGrace is how long after a deadline the node's own "deadline exceeded" is waited for.
	answerGrace = 500 * time.Millisecond
	// suspectAfter is how long a node may leave everything unanswered before it is asked whether it lives.
	suspectAfter = time.Second
)

// event is what happened outside the loop.
type event struct {
	kind   eventKind
	stream outbox.StreamID
	frame  *sluicev1.PublishStreamResponse
	cancel *pending
	err    error
}

type eventKind int

const (
	evOpened eventKind = iota + 1
	evFrame
	evLost
	evCancel
)

// publishLoop is the goroutine that owns a publisher's machine: it feeds it and does what it asks for.
type publishLoop struct {
	p        *Publisher
	m        *outbox.Machine
	streams  map[outbox.StreamID]*publishStream
	lastNode string
	inbox    []*pending
	events   []event
	verdicts []outbox.Verdict
	probing  chan struct{} // closed when the running probe has ended; nil: none
}

func newPublishLoop(p *Publisher) *publishLoop {
	return &publishLoop{
		p: p, streams: map[outbox.StreamID]*publishStream{},
		m: outbox.New(outbox.Config{
			Linger: p.opts.linger, MaxBatchBytes: p.opts.batchBytes, MaxBatchMessages: p.opts.batchMessages,
			MaxRequests: maxRequests, Grace: answerGrace, Backoff: 50 * time.Millisecond, MaxBackoff: time.Second,
		}),
	}
}

func (l *publishLoop) run() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		stopping := false
		select {
		case <-l.p.wake:
		case <-timer.C:
		case <-l.p.ctx.Done():
			stopping = true
		}
		l.step(stopping)
		if stopping {
			l.end()
			return
		}
		timer.Reset(l.next())
	}
}

// step feeds the machine with everything that came and carries out its commands.
func (l *publishLoop) step(stopping bool) {
	p := l.p
	p.mu.Lock()
	l.inbox, p.inbox = p.inbox, l.inbox[:0]
	l.events, p.events = p.events, l.events[:0]
	flush := p.flush
	p.flush, p.woken = false, false
	p.mu.Unlock()

	now := time.Now()
	for i, x := range l.inbox {
		l.m.Add(now, &x.item)
		l.inbox[i] = nil
	}
	if flush {
		l.m.Flush()
	}
	for i := range l.events {
		l.apply(now, &l.events[i])
		l.events[i] = event{}
	}
	if stopping {
		l.m.FailAll(now, outbox.NotSent, failure(ReasonCancelled, "the publisher of %s was closed", p.topic))
	}
	l.m.Tick(now)
	l.execute(now, l.m.Take())
	l.suspect(now)
}

func (l *publishLoop) next() time.Duration {
	now := time.Now()
	at, ok := l.m.Next(now)
	if !ok {
		return time.Hour
	}
	d := at.Sub(now)
	if l.outstanding() {
		d = min(d, suspectAfter/2)
	}
	return max(d, 0)
}

func (l *publishLoop) apply(now time.Time, e *event) {
	switch e.kind {
	case evOpened:
		l.m.Opened(now, e.stream)
	case evCancel:
		l.m.Cancel(now, &e.cancel.item)
	case evLost:
		l.lost(now, e)
	case evFrame:
		l.frame(now, e)
	}
}

func (l *publishLoop) lost(now time.Time, e *event) {
	s := l.streams[e.stream]
	if s == nil {
		return // closed by the loop itself
	}
	delete(l.streams, e.stream)
	s.end()
	l.m.Lost(now, e.stream)
	err := fromCall(s.node, e.err)
	l.p.c.nodes.avoid(s.node)
	l.p.c.log.Warn("publish stream lost", "topic", l.p.topic, "node", s.node, "err", err)
	l.p.reconnected(s.node, err)
	if hopeless(err) {
		// What was out is already marked as such: it ends as maybe sent, the rest as refused.
		l.m.FailAll(now, outbox.Refused, err)
	}
}

func (l *publishLoop) frame(now time.Time, e *event) {
	s := l.streams[e.stream]
	if s == nil {
		return
	}
	s.heard = now
	if e.frame.GetGoAway() == nil {
		s.answered++
	}
	switch f := e.frame.GetFrame().(type) {
	case *sluicev1.PublishStreamResponse_Publish:
		l.answer(now, s, e.frame.GetRequest(), f.Publish)
	case *sluicev1.PublishStreamResponse_Error:
		l.refuse(now, s, e.frame.GetRequest(), fromProto(f.Error))
	case *sluicev1.PublishStreamResponse_GoAway:
		l.goAway(now, s)
	}
}

func (l *publishLoop) goAway(now time.Time, s *publishStream) {
	if s.leaving {
		return
	}
	s.leaving = true
	l.p.c.nodes.avoid(s.node)
	l.p.reconnected(s.node, nil)
	l.m.GoAway(now, s.id)
}

// answer notes where messages are stored and hands the verdicts to the machine.
func (l *publishLoop) answer(now time.Time, s *publishStream, request uint64, resp *sluicev1.PublishResponse) {
	items := l.m.Items(request)
	if items == nil {
		return
	}
	results := resp.GetResults()
	if len(results) != len(items) {
		// Nothing on this stream can be trusted any more, and what was stored is not known.
		l.lost(now, &event{stream: s.id, err: failure(ReasonInternal, "node %s answered %d messages with %d results", s.node, len(items), len(results))})
		return
	}
	l.verdicts = l.verdicts[:0]
	leave := false
	for i, r := range results {
		x := items[i].Value.(*pending)
		v := verdict(r)
		if v.Status <= outbox.NotReplicated && int(r.GetPlace()) < len(resp.GetPlaces()) {
			place := resp.GetPlaces()[r.GetPlace()]
			x.result.Cluster, x.result.Partition, x.result.Offset = place.GetCluster(), place.GetPartition(), r.GetOffset()
		}
		leave = leave || wantsLeave(v)
		l.verdicts = append(l.verdicts, v)
	}
	l.m.Answer(now, request, l.verdicts)
	if leave {
		l.goAway(now, s)
	}
}

// refuse applies one error to a whole request, of which nothing was sent.
func (l *publishLoop) refuse(now time.Time, s *publishStream, request uint64, err *Error) {
	items := l.m.Items(request)
	v := outbox.Verdict{Status: outbox.NotSent, Retry: passing(err), SlowDown: err.Reason == ReasonSlowDown, After: err.RetryAfter, Err: err}
	if hopeless(err) || err.Reason == ReasonMessageTooLarge {
		v.Status = outbox.Refused
	}
	l.verdicts = l.verdicts[:0]
	for range items {
		l.verdicts = append(l.verdicts, v)
	}
	l.m.Answer(now, request, l.verdicts)
	if wantsLeave(v) {
		l.goAway(now, s)
	}
}

// verdict is the machine's view of a result.
func verdict(r *sluicev1.PublishResult) outbox.Verdict {
	v := outbox.Verdict{}
	err := fromProto(r.GetError())
	if err != nil {
		v.Err = err
		v.After = err.RetryAfter
	}
	switch r.GetStatus() {
	case sluicev1.Status_STATUS_STORED:
		v.Status = outbox.Stored
	case sluicev1.Status_STATUS_STORED_NOT_REPLICATED:
		v.Status = outbox.NotReplicated
	case sluicev1.Status_STATUS_NOT_SENT:
		v.Status = outbox.NotSent
		if err != nil {
			v.Retry = passing(err)
			v.Preceding = err.Reason == ReasonPrecedingFailed
			v.SlowDown = err.Reason == ReasonSlowDown
		}
	case sluicev1.Status_STATUS_REFUSED:
		v.Status = outbox.Refused
	default:
		// Unknown is the worst case: it may be stored.
		v.Status = outbox.MaybeSent
	}
	return v
}

// passing: what was not sent for this reason may well be sent a little later, or by another node.
func passing(err *Error) bool {
	switch err.Reason {
	case ReasonSlowDown, ReasonUnavailable, ReasonGoAway, ReasonWrongRole, ReasonTooFewReplicas, ReasonDeadlineExceeded,
		ReasonPrecedingFailed, ReasonControlUnavailable:
		return !err.MaybeSent
	default:
		return false
	}
}

func wantsLeave(v outbox.Verdict) bool {
	return v.Err != nil && (errors.Is(v.Err, ReasonGoAway) || errors.Is(v.Err, ReasonWrongRole))
}

// execute does what the machine asked for.
func (l *publishLoop) execute(now time.Time, c outbox.Commands) {
	for i := range c.Sends {
		send := &c.Sends[i]
		if s := l.streams[send.Stream]; s != nil {
			s.send(now, l.request(send))
		}
	}
	for _, id := range c.Close {
		if s := l.streams[id]; s != nil {
			delete(l.streams, id)
			s.finish()
		}
	}
	for _, id := range c.Drop {
		if s := l.streams[id]; s != nil {
			delete(l.streams, id)
			s.end()
			l.p.c.nodes.avoid(s.node)
			l.p.reconnected(s.node, failure(ReasonDeadlineExceeded, "node %s left requests unanswered", s.node))
		}
	}
	if c.Open != 0 {
		leave := ""
		if c.Leave {
			leave = l.lastNode
		}
		// A publisher stays where it is as long as that works.
		node := l.lastNode
		if node == "" || c.Leave {
			node = l.p.c.nodes.pick(roleProducer, leave)
		}
		l.lastNode = node
		l.streams[c.Open] = l.p.open(c.Open, node)
	}
	l.p.finished(now, c.Done)
}

func (l *publishLoop) request(send *outbox.Send) *sluicev1.PublishStreamRequest {
	req := &sluicev1.PublishRequest{
		Messages:   make([]*sluicev1.Message, len(send.Items)),
		TimeoutMs:  uint32(max(send.Timeout.Milliseconds(), 1)),
		Durability: sluicev1.Durability_DURABILITY_REPLICATED,
	}
	if l.p.opts.durability == Any {
		req.Durability = sluicev1.Durability_DURABILITY_ANY
	}
	for i, it := range send.Items {
		req.Messages[i] = &it.Value.(*pending).msg
	}
	return &sluicev1.PublishStreamRequest{Request: send.Request, Frame: &sluicev1.PublishStreamRequest_Publish{Publish: req}}
}

func (l *publishLoop) outstanding() bool {
	return len(l.streams) > 0 && l.m.Len() > 0
}

// suspect asks nodes that owe answers and have been silent whether they live: a paused process or a black hole resets no
// connection, and a slow broker must not be taken for one.
func (l *publishLoop) suspect(now time.Time) {
	if l.probing != nil {
		select {
		case <-l.probing:
			l.probing = nil
		default:
			return
		}
	}
	for _, s := range l.streams {
		if s.owes() && now.Sub(s.heard) > suspectAfter {
			s.heard = now // the next question after another suspectAfter
			done := make(chan struct{})
			l.probing = done
			l.p.wg.Go(func() {
				defer close(done)
				l.p.c.nodes.probe(s.node)
			})
			return
		}
	}
}

func (l *publishLoop) end() {
	for _, s := range l.streams {
		s.end()
	}
	l.p.closeCallbacks()
}
