package data

import (
	"context"
	"errors"
	"io"
	"math"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/sluice-mq/sluice/internal/auth"
	"github.com/sluice-mq/sluice/internal/consume"
	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/rpc"
	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
)

type consumeServer = grpc.BidiStreamingServer[sluicev1.ConsumeRequest, sluicev1.ConsumeResponse]

// settleTimeout bounds giving back what did not reach a client.
const settleTimeout = 10 * time.Second

// consumeStream is one stream: a reader that settles acks and collects credits, and the handler, which leases and writes.
type consumeStream struct {
	svc    *Service
	stream consumeServer
	who    auth.Who
	engine consume.Consumer
	opened chan *sluicev1.Subscription // from the reader, once
	group  string                      // the reader's own, for acks

	// interrupt ends a waiting Next: the reader has ended, or the stream should go away.
	interrupt context.CancelFunc
	wake      chan struct{} // to the handler: credits, the end

	sendMu sync.Mutex // serialises Send: acks are answered by the reader, so that they never wait for messages

	mu      sync.Mutex // guards what follows
	credits int64
	ended   error
	leave   string // why the stream should go away; "": it should not
}

// Consume delivers leased messages for credits and settles them.
func (s *Service) Consume(stream consumeServer) error {
	engine, err := s.consumer()
	if err != nil {
		return err
	}
	next, cancel := context.WithCancel(stream.Context())
	defer cancel()
	c := &consumeStream{
		svc: s, stream: stream, who: rpc.Who(stream.Context()), engine: engine,
		opened: make(chan *sluicev1.Subscription, 1), interrupt: cancel, wake: make(chan struct{}, 1),
	}
	// The reader ends when this handler has returned, which ends Recv; Close waits for it.
	s.done.Go(c.read)
	return c.serve(next)
}

// read takes frames until the client ends or errs.
func (c *consumeStream) read() {
	for {
		frame, err := c.stream.Recv()
		if err == nil {
			err = c.take(frame)
		}
		if err != nil {
			c.mu.Lock()
			c.ended = err
			c.mu.Unlock()
			c.interrupt()
			signal(c.wake)
			return
		}
	}
}

// take handles one frame; an error ends the stream.
func (c *consumeStream) take(frame *sluicev1.ConsumeRequest) error {
	if open := frame.GetOpen(); open != nil {
		if c.group != "" {
			return fault.New(fault.InvalidArgument, "a second opening frame; open another stream for another subscription")
		}
		if open.GetGroup() == "" {
			return fault.New(fault.InvalidArgument, "the subscription names no group")
		}
		c.group = open.GetGroup()
		c.opened <- open
		return nil
	}
	if c.group == "" {
		return fault.New(fault.InvalidArgument, "the first frame of a consume stream must open it")
	}
	switch f := frame.GetFrame().(type) {
	case *sluicev1.ConsumeRequest_Credit:
		c.mu.Lock()
		// A client may give more than it can hold, meaning "no limit": saturate instead of wrapping round.
		c.credits = min(c.credits+int64(f.Credit), math.MaxInt32)
		c.mu.Unlock()
		signal(c.wake)
		return nil
	case *sluicev1.ConsumeRequest_Acks:
		results, err := c.svc.settle(c.stream.Context(), c.who, c.group, f.Acks.GetAcks())
		if err != nil {
			return err
		}
		return c.send(&sluicev1.ConsumeResponse{Frame: &sluicev1.ConsumeResponse_Acks{
			Acks: &sluicev1.ConsumeAckResults{Request: f.Acks.GetRequest(), Results: results},
		}})
	default:
		return fault.New(fault.InvalidArgument, "the frame carries nothing that this node knows; the client may be newer than the node")
	}
}

// serve opens the session and delivers until the stream ends.
func (c *consumeStream) serve(next context.Context) error {
	ctx := c.stream.Context()
	var asked *sluicev1.Subscription
	select {
	case asked = <-c.opened:
	case <-next.Done():
		return c.end(ctx)
	}
	sub, err := decodeSubscription(asked)
	if err != nil {
		return err
	}
	session, err := c.engine.Open(ctx, c.who, sub)
	if err != nil {
		return err
	}
	clean := false
	// A client that ended in order has settled what it wanted to: the rest goes back. After a broken connection it may
	// still be at work and settle elsewhere, so its leases run to their deadlines.
	defer func() { session.Close(clean) }()
	if err := c.send(&sluicev1.ConsumeResponse{Frame: &sluicev1.ConsumeResponse_Opened{Opened: &sluicev1.ConsumeOpened{
		Subscription: inForce(sub, session.Settings()),
		Nodes:        &sluicev1.GroupNodes{Nodes: encodeNodes(c.engine.GroupNodes(sub.Group))},
	}}}); err != nil {
		return err
	}
	defer c.svc.server.OnGoAway(func() { c.goAway("the node is draining; finish, settle, and go on at another node") })()
	if life := c.svc.server.StreamEnd(ctx); life > 0 {
		t := time.AfterFunc(life, func() { c.goAway("the connection is old; settle and open a stream anew, so that load spreads") })
		defer t.Stop()
	}
	err = c.deliver(ctx, next, session)
	clean = err == nil
	return err
}

// goAway asks the handler to tell the client and to lease nothing more.
func (c *consumeStream) goAway(why string) {
	c.mu.Lock()
	if c.leave == "" {
		c.leave = why
	}
	c.mu.Unlock()
	c.interrupt()
	signal(c.wake)
}

// deliver is the loop of the handler.
func (c *consumeStream) deliver(ctx, next context.Context, session consume.Session) error {
	events := session.Events()
	told := false // the client knows that it should go away
	for {
		c.mu.Lock()
		credits, leave, ended := c.credits, c.leave, c.ended
		c.mu.Unlock()
		if ended != nil || ctx.Err() != nil {
			return c.end(ctx)
		}
		if leave != "" && !told {
			told = true
			c.svc.metrics.goAways.WithLabelValues("consume").Inc()
			if err := c.send(&sluicev1.ConsumeResponse{Frame: &sluicev1.ConsumeResponse_GoAway{GoAway: &sluicev1.GoAway{Message: leave}}}); err != nil {
				return err
			}
		}
		if !told && credits > 0 {
			select {
			case ev, ok := <-events: // what is known goes out before messages
				if err := c.event(&events, ev, ok); err != nil {
					return err
				}
				continue
			default:
			}
			if err := c.lease(next, session, int(min(credits, frameMessages))); err != nil {
				return err
			}
			continue
		}
		select {
		case ev, ok := <-events:
			if err := c.event(&events, ev, ok); err != nil {
				return err
			}
		case <-c.wake:
		case <-ctx.Done():
		}
	}
}

// lease asks for up to n messages and writes them.
func (c *consumeStream) lease(next context.Context, session consume.Session, n int) error {
	ds, err := session.Next(next, n, maxWait)
	if err != nil && len(ds) == 0 {
		if next.Err() != nil {
			return nil // interrupted: the loop looks why
		}
		return err
	}
	for len(ds) > 0 {
		k := fit(ds, frameBytes, frameMessages)
		if err := c.sendDeliveries(ds[:k]); err != nil {
			c.svc.metrics.returned.WithLabelValues("unwritten").Add(float64(len(ds)))
			session.Return(ds)
			return err
		}
		c.mu.Lock()
		c.credits -= int64(k)
		c.mu.Unlock()
		ds = ds[k:]
	}
	return nil
}

func (c *consumeStream) sendDeliveries(ds []consume.Delivery) error {
	if err := c.stream.Context().Err(); err != nil {
		return err // Send would take them into a buffer that nobody reads
	}
	arena := arenas.Get().(*deliveryArena)
	defer arena.recycle()
	return c.send(&sluicev1.ConsumeResponse{Frame: &sluicev1.ConsumeResponse_Deliveries{
		Deliveries: &sluicev1.Deliveries{Messages: arena.encode(ds)},
	}})
}

// event tells the client what the engine says; an error ends the stream.
func (c *consumeStream) event(events *<-chan consume.Event, ev consume.Event, ok bool) error {
	switch {
	case !ok:
		*events = nil
		return nil
	case ev.Err != nil:
		return ev.Err
	case ev.GoAway != "":
		c.goAway(ev.GoAway)
		return nil
	case ev.Revoked != nil:
		return c.send(&sluicev1.ConsumeResponse{Frame: &sluicev1.ConsumeResponse_Revoked{Revoked: &sluicev1.Revoked{Receipts: ev.Revoked}}})
	case ev.Nodes != nil:
		return c.send(&sluicev1.ConsumeResponse{Frame: &sluicev1.ConsumeResponse_Nodes{Nodes: &sluicev1.GroupNodes{Nodes: encodeNodes(ev.Nodes)}}})
	default:
		return nil
	}
}

// end is how the stream ends: in order, by a fault of the client, or by its context.
func (c *consumeStream) end(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if errors.Is(c.ended, io.EOF) {
		return nil
	}
	return c.ended
}

func (c *consumeStream) send(frame *sluicev1.ConsumeResponse) error {
	c.sendMu.Lock()
	defer c.sendMu.Unlock()
	return c.stream.Send(frame)
}
