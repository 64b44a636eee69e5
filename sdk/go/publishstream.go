package sluice

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/sluice-mq/sluice/sdk/go/internal/outbox"
	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
)

// openTimeout is how long a node may take to accept a stream.
const openTimeout = 3 * time.Second

// publishStream is one stream to one node. The loop owns the struct; two goroutines move its frames.
type publishStream struct {
	id     outbox.StreamID
	node   string
	cancel context.CancelCauseFunc
	frames chan *sluicev1.PublishStreamRequest // closed to half-close the stream
	heard  time.Time                           // when it last answered, or the oldest unanswered request was sent
	// asked and answered count requests.
	asked, answered uint64
	leaving         bool
}

// open starts a stream; evOpened or evLost tell how it went.
func (p *Publisher) open(id outbox.StreamID, node string) *publishStream {
	ctx, cancel := context.WithCancelCause(p.ctx)
	s := &publishStream{id: id, node: node, cancel: cancel, frames: make(chan *sluicev1.PublishStreamRequest, maxRequests+1), heard: time.Now()}
	p.wg.Go(func() {
		defer cancel(nil)
		p.post(event{kind: evLost, stream: id, err: s.receive(ctx, p)})
	})
	return s
}

// receive opens the stream and reads it to its end.
func (s *publishStream) receive(ctx context.Context, p *Publisher) error {
	cc, err := p.c.nodes.conn(s.node)
	if err != nil {
		return err
	}
	late := time.AfterFunc(openTimeout, s.end)
	stream, err := sluicev1.NewProducerServiceClient(cc).PublishStream(ctx)
	if err == nil {
		err = stream.Send(&sluicev1.PublishStreamRequest{Frame: &sluicev1.PublishStreamRequest_Open{
			Open: &sluicev1.PublishOpen{Topic: p.topic, Producer: p.opts.producer},
		}})
	}
	if !late.Stop() {
		return failure(ReasonUnavailable, "node %s did not accept a stream in %v", s.node, openTimeout)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	p.post(event{kind: evOpened, stream: s.id})
	p.wg.Go(func() { s.sendAll(ctx, stream) })
	for {
		f, err := stream.Recv()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = failure(ReasonUnavailable, "node %s ended the stream", s.node)
			}
			return err
		}
		p.post(event{kind: evFrame, stream: s.id, frame: f})
	}
}

// sendAll sends frames until the stream is half-closed or ends; why it ended is what receive finds.
func (s *publishStream) sendAll(ctx context.Context, stream sluicev1.ProducerService_PublishStreamClient) {
	for {
		select {
		case <-ctx.Done():
			return
		case f, ok := <-s.frames:
			if !ok {
				_ = stream.CloseSend() // never fails
				return
			}
			if err := stream.Send(f); err != nil {
				if !errors.Is(err, io.EOF) {
					// A frame that cannot be put on the wire: nothing may follow it, or order would be lost.
					s.cancel(err)
				}
				return
			}
		}
	}
}

func (s *publishStream) send(now time.Time, f *sluicev1.PublishStreamRequest) {
	if !s.owes() {
		s.heard = now
	}
	s.asked++
	s.frames <- f
}

// owes: a request has no answer yet.
func (s *publishStream) owes() bool { return s.asked > s.answered }

// finish half-closes a stream on which nothing is out.
func (s *publishStream) finish() { close(s.frames) }

// end breaks the stream off.
func (s *publishStream) end() { s.cancel(errEnded) }

var errEnded = failure(ReasonCancelled, "the stream was ended by the client")
