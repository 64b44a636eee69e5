package sluice

import (
	"context"
	"errors"
	"io"
	"slices"
	"time"

	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
)

const (
	// ackLinger is how long acks wait for others while a batch of them is out.
	ackLinger = 5 * time.Millisecond
	// ackBatch is how many acks do not wait.
	ackBatch = 100
	// maxAcks go in one frame.
	maxAcks = 1000
)

// consumeStream is one stream to one node. The receiver's mutex guards its fields.
type consumeStream struct {
	r      *Receiver
	addr   string
	share  *share
	lease  time.Duration // the lease time in force
	ctx    context.Context
	cancel context.CancelCauseFunc

	acks     []*job            // to be sent
	firstAck time.Time         // when the oldest of them came
	sent     map[uint64][]*job // without an answer
	request  uint64
	credit   int // to be sent
	open     bool
	broken   []uint64 // the latest runs of which something was released: what still comes of them is given back
	leaving  bool     // no new credit; ends once everything from it is settled
	closing  bool     // half-closed, or about to be
	dead     bool
	wake     chan struct{} // 1 deep
}

func newConsumeStream(r *Receiver, addr string) *consumeStream {
	s := &consumeStream{
		r: r, addr: addr, lease: r.sub.Lease, sent: map[uint64][]*job{}, wake: make(chan struct{}, 1),
		share: &share{},
	}
	s.ctx, s.cancel = context.WithCancelCause(r.ctx)
	return s
}

func (s *consumeStream) writable() bool { return s.open && !s.closing && !s.dead }

func (s *consumeStream) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// halfClose ends the stream from this side once everything queued has been sent. The mutex is held.
func (s *consumeStream) halfClose() {
	if s.closing {
		return
	}
	s.closing = true
	s.share.retired = true
	if !s.open {
		s.cancel(errEnded)
		return
	}
	s.signal()
	time.AfterFunc(closeGrace, func() { s.cancel(errEnded) }) // a node that does not end the stream
}

// run opens the stream and reads it to its end, which it returns.
func (s *consumeStream) run() error {
	cc, err := s.r.c.nodes.conn(s.addr)
	if err != nil {
		return err
	}
	late := time.AfterFunc(openTimeout, func() {
		s.cancel(failure(ReasonUnavailable, "node %s did not take the subscription in %v", s.addr, openTimeout))
	})
	defer late.Stop()
	stream, err := sluicev1.NewConsumerServiceClient(cc).Consume(s.ctx)
	if err == nil {
		err = stream.Send(&sluicev1.ConsumeRequest{Frame: &sluicev1.ConsumeRequest_Open{Open: s.r.sub.proto()}})
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return s.cause(err)
	}
	for sending := false; ; {
		f, err := stream.Recv()
		if err != nil {
			return s.cause(err)
		}
		if !sending && f.GetOpened() != nil {
			late.Stop()
			sending = true
			s.r.wg.Go(func() { s.sendAll(stream) })
		}
		s.r.frame(s, f)
	}
}

// cause prefers why this side ended the stream.
func (s *consumeStream) cause(err error) error {
	if s.ctx.Err() != nil {
		return context.Cause(s.ctx)
	}
	if errors.Is(err, io.EOF) {
		return failure(ReasonUnavailable, "node %s ended the stream", s.addr)
	}
	return err
}

// sendAll sends acks and credit until the stream ends.
func (s *consumeStream) sendAll(stream sluicev1.ConsumerService_ConsumeClient) {
	linger := time.NewTimer(time.Hour)
	defer linger.Stop()
	for {
		frames, done, wait := s.next()
		for _, f := range frames {
			if err := stream.Send(f); err != nil {
				if !errors.Is(err, io.EOF) {
					s.cancel(err)
				}
				return // receive finds out why
			}
		}
		if done {
			_ = stream.CloseSend() // never fails
			return
		}
		if len(frames) > 0 {
			continue
		}
		linger.Reset(wait)
		select {
		case <-s.ctx.Done():
			return
		case <-s.wake:
		case <-linger.C:
		}
	}
}

// next is what to send now; or whether to half-close, or how long to wait.
func (s *consumeStream) next() (frames []*sluicev1.ConsumeRequest, done bool, wait time.Duration) {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	wait = time.Hour
	if n := len(s.acks); n > 0 {
		left := ackLinger - time.Since(s.firstAck)
		if len(s.sent) == 0 || n >= ackBatch || left <= 0 || s.closing {
			frames = append(frames, s.takeAcks(min(n, maxAcks)))
		} else {
			wait = left
		}
	}
	if s.credit > 0 && !s.closing {
		frames = append(frames, &sluicev1.ConsumeRequest{Frame: &sluicev1.ConsumeRequest_Credit{Credit: uint32(s.credit)}})
		s.credit = 0
	}
	return frames, s.closing && len(s.acks) == 0, wait
}

// add queues an ack. The mutex is held.
func (s *consumeStream) add(j *job) {
	s.acks = append(s.acks, j)
	switch len(s.acks) {
	case 1:
		s.firstAck = time.Now()
		s.signal()
	case ackBatch:
		s.signal()
	}
}

// brokenRuns bounds consumeStream.broken. A run's last frame is at most a round trip behind the release.
const brokenRuns = 256

// breakRun remembers a run that must not go on. The mutex is held.
func (s *consumeStream) breakRun(run uint64) {
	if slices.Contains(s.broken, run) {
		return
	}
	if len(s.broken) == brokenRuns {
		s.broken = slices.Delete(s.broken, 0, 1)
	}
	s.broken = append(s.broken, run)
}

// takeAcks makes a frame of the oldest acks. The mutex is held.
func (s *consumeStream) takeAcks(n int) *sluicev1.ConsumeRequest {
	s.request++
	jobs := s.acks[:n:n]
	s.acks = append([]*job(nil), s.acks[n:]...)
	s.sent[s.request] = jobs
	acks := make([]*sluicev1.Ack, n)
	for i, j := range jobs {
		acks[i] = j.ack
	}
	return &sluicev1.ConsumeRequest{Frame: &sluicev1.ConsumeRequest_Acks{Acks: &sluicev1.ConsumeAcks{Request: s.request, Acks: acks}}}
}
