package data

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/sluice-mq/sluice/internal/auth"
	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/publish"
	"github.com/sluice-mq/sluice/internal/rpc"
	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
)

type publishServer = grpc.BidiStreamingServer[sluicev1.PublishStreamRequest, sluicev1.PublishStreamResponse]

// answer is what one frame of a publish stream is answered with: results, or an error for the frame as a whole.
type answer struct {
	request uint64
	results []publish.Result
	missing ids
	bytes   int
	err     error
}

// publishStream is one stream: a reader that hands frames to the engine in order, and the handler, which writes
// answers as they come.
type publishStream struct {
	svc    *Service
	stream publishServer
	who    auth.Who
	engine publish.Publisher
	lane   *publish.Stream
	open   *sluicev1.PublishOpen // the reader's own

	wake  chan struct{} // to the writer: answers, or the end
	freed chan struct{} // to the reader: room in the window

	mu       sync.Mutex // guards what follows
	answers  []answer
	bytes    int   // taken and not yet answered
	requests int   // likewise
	ended    error // why the reader ended: io.EOF, a fault, or the stream's own error
}

// PublishStream carries many batches over one stream.
func (s *Service) PublishStream(stream publishServer) error {
	engine, err := s.publisher()
	if err != nil {
		return err
	}
	p := &publishStream{
		svc: s, stream: stream, who: rpc.Who(stream.Context()), engine: engine, lane: engine.NewStream(),
		wake: make(chan struct{}, 1), freed: make(chan struct{}, 1),
	}
	// The reader ends when this handler has returned, which ends Recv; Close waits for it.
	s.done.Go(p.read)
	return p.write()
}

// read takes frames until the client ends or errs.
func (p *publishStream) read() {
	for {
		frame, err := p.stream.Recv()
		if err == nil {
			err = p.take(frame)
		}
		if err != nil {
			p.mu.Lock()
			p.ended = err
			p.mu.Unlock()
			signal(p.wake)
			return
		}
	}
}

// take handles one frame; an error ends the stream.
func (p *publishStream) take(frame *sluicev1.PublishStreamRequest) error {
	if open := frame.GetOpen(); open != nil {
		if p.open != nil {
			return fault.New(fault.InvalidArgument, "a second opening frame; open another stream for another publisher")
		}
		p.open = open
		return nil
	}
	if p.open == nil {
		return fault.New(fault.InvalidArgument, "the first frame of a publish stream must open it")
	}
	req := frame.GetPublish()
	if req == nil {
		return p.refuse(frame.GetRequest(), fault.New(fault.InvalidArgument, "the frame carries nothing that this node knows; the client may be newer than the node"))
	}
	r, size, err := decodePublish(req)
	if err != nil {
		return p.refuse(frame.GetRequest(), err)
	}
	if r.Topic == "" {
		r.Topic = p.open.GetTopic()
	}
	if r.Producer == "" {
		r.Producer = p.open.GetProducer()
	}
	r.Stream = p.lane
	if err := p.reserve(size); err != nil {
		return err
	}
	a := answer{request: frame.GetRequest(), missing: missingIDs(r.Messages), bytes: size}
	p.engine.Publish(p.stream.Context(), p.who, r, func(rs []publish.Result) {
		a.results = rs
		p.put(a)
	})
	return nil
}

func (p *publishStream) refuse(request uint64, err error) error {
	if err := p.reserve(0); err != nil {
		return err
	}
	p.put(answer{request: request, err: err})
	return nil
}

// reserve waits until the window has room. One batch always fits, or one that is larger than the window would wait for ever.
func (p *publishStream) reserve(size int) error {
	for waited := false; ; waited = true {
		p.mu.Lock()
		if p.requests == 0 || (p.bytes+size <= p.svc.cfg.StreamWindowBytes && p.requests < p.svc.cfg.StreamWindowRequests) {
			p.bytes += size
			p.requests++
			p.mu.Unlock()
			return nil
		}
		p.mu.Unlock()
		if !waited {
			p.svc.metrics.windowFull.Inc()
		}
		select {
		case <-p.freed:
		case <-p.stream.Context().Done():
			return context.Cause(p.stream.Context())
		}
	}
}

// put queues an answer; it never blocks, so the engine may call it from a driver's goroutine. The window bounds the queue.
func (p *publishStream) put(a answer) {
	p.mu.Lock()
	p.answers = append(p.answers, a)
	p.mu.Unlock()
	signal(p.wake)
}

// write sends answers until the reader has ended and all are out.
func (p *publishStream) write() error {
	ctx := p.stream.Context()
	draining := p.svc.server.Draining()
	aged, stop := timer(p.svc.server.StreamEnd(ctx))
	defer stop()
	enc := publishEncoder{faults: p.svc.faults}
	var frame sluicev1.PublishStreamResponse
	var body sluicev1.PublishStreamResponse_Publish
	var spare []answer
	for {
		select {
		case <-p.wake:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-draining:
			draining, aged = nil, nil
			if err := p.goAway("the node is draining; open a stream to another node"); err != nil {
				return err
			}
		case <-aged:
			draining, aged = nil, nil
			if err := p.goAway("the connection is old; open a stream anew, so that load spreads"); err != nil {
				return err
			}
		}
		p.mu.Lock()
		batch := p.answers
		p.answers = spare[:0]
		p.mu.Unlock()
		for i := range batch {
			a := &batch[i]
			frame.Request = a.request
			if a.err != nil {
				frame.Frame = &sluicev1.PublishStreamResponse_Error{Error: p.svc.faults.Proto(a.err)}
			} else {
				body.Publish = enc.encode(a.results, a.missing)
				frame.Frame = &body
			}
			if err := p.stream.Send(&frame); err != nil {
				return err
			}
			p.release(a.bytes)
			*a = answer{} // lets the results go
		}
		spare = batch
		if done, err := p.finished(); done {
			return err
		}
	}
}

func (p *publishStream) goAway(why string) error {
	p.svc.metrics.goAways.WithLabelValues("publish").Inc()
	return p.stream.Send(&sluicev1.PublishStreamResponse{Frame: &sluicev1.PublishStreamResponse_GoAway{GoAway: &sluicev1.GoAway{Message: why}}})
}

func (p *publishStream) release(size int) {
	p.mu.Lock()
	p.bytes -= size
	p.requests--
	p.mu.Unlock()
	signal(p.freed)
}

// finished tells whether the reader has ended and nothing is unanswered, and how the stream ends.
func (p *publishStream) finished() (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.ended == nil || p.requests > 0:
		return false, nil
	case errors.Is(p.ended, io.EOF):
		return true, nil
	default:
		return true, p.ended
	}
}

// signal wakes the one goroutine that waits on c, now or when it comes to wait.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// timer is a channel that fires once after d, never where d is 0.
func timer(d time.Duration) (<-chan time.Time, func()) {
	if d <= 0 {
		return nil, func() {}
	}
	t := time.NewTimer(d)
	return t.C, func() { t.Stop() }
}
