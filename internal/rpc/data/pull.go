package data

import (
	"context"
	"time"

	"github.com/sluice-mq/sluice/internal/auth"
	"github.com/sluice-mq/sluice/internal/consume"
	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/rpc"
	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
)

// pull is one pull, decoded.
type pull struct {
	who    auth.Who
	sub    consume.Subscription
	client string
	max    int
	wait   time.Duration
	req    *sluicev1.PullRequest
}

// Pull settles the last batch, then leases the next one from whichever nodes serve the group. When the second part fails
// the call fails although the acks were recorded; sending them again is answered the same way.
func (s *Service) Pull(ctx context.Context, req *sluicev1.PullRequest) (*sluicev1.PullResponse, error) {
	resp, err := s.pull(ctx, rpc.Who(ctx), req, s.pullAll)
	if err == nil && ctx.Err() != nil {
		s.giveBack(ctx, rpc.Who(ctx), req.GetSubscription().GetGroup(), "unwritten", resp.GetMessages())
		return nil, ctx.Err()
	}
	return resp, err
}

// PullLocal does the same with this node's lanes alone: for a neighbour that passes a client's pull on, having
// authenticated who.
func (s *Service) PullLocal(ctx context.Context, who auth.Who, req *sluicev1.PullRequest) (*sluicev1.PullResponse, error) {
	resp, err := s.pull(ctx, who, req, s.pullHere)
	if err == nil && ctx.Err() != nil {
		s.giveBack(ctx, who, req.GetSubscription().GetGroup(), "unwritten", resp.GetMessages())
		return nil, ctx.Err()
	}
	return resp, err
}

func (s *Service) pull(ctx context.Context, who auth.Who, req *sluicev1.PullRequest, lease func(context.Context, pull) ([]*sluicev1.Delivery, error)) (*sluicev1.PullResponse, error) {
	if _, err := s.consumer(); err != nil {
		return nil, err
	}
	p, err := decodePull(who, req)
	if err != nil {
		return nil, err
	}
	resp := &sluicev1.PullResponse{}
	if len(req.GetAcks()) > 0 {
		// First, since an ordered lane gives nothing more before they are in.
		if resp.AckResults, err = s.settle(ctx, who, p.sub.Group, req.GetAcks()); err != nil {
			return nil, err
		}
	}
	began := s.deps.Now()
	resp.Messages, err = lease(ctx, p)
	if err == nil && s.deps.Now().Sub(began) > time.Second {
		// The credential may have been revoked while the call waited.
		err = rpc.Recheck(ctx)
	}
	if err != nil {
		s.giveBack(ctx, who, p.sub.Group, "unwritten", resp.Messages)
		return nil, err
	}
	return resp, nil
}

func decodePull(who auth.Who, req *sluicev1.PullRequest) (pull, error) {
	sub, err := decodeSubscription(req.GetSubscription())
	if err != nil {
		return pull{}, err
	}
	p := pull{who: who, sub: sub, client: req.GetClient(), max: int(req.GetMaxMessages()), wait: time.Duration(req.GetWaitMs()) * time.Millisecond, req: req}
	if p.max == 0 {
		p.max = 100
	}
	switch {
	case p.max > maxMessages:
		return p, fault.New(fault.InvalidArgument, "max_messages %d is out of range; at most %d is allowed", p.max, maxMessages)
	case p.wait > maxWait:
		return p, fault.New(fault.InvalidArgument, "a wait of %s is out of range; at most %s is allowed", p.wait, maxWait)
	case len(p.client) > 256:
		return p, fault.New(fault.InvalidArgument, "the client's name has %d bytes; at most 256 are allowed", len(p.client))
	}
	return p, nil
}

// pullHere leases from this node's lanes.
func (s *Service) pullHere(ctx context.Context, p pull) ([]*sluicev1.Delivery, error) {
	open := func() (consume.Session, error) { return s.deps.Consumer.Open(ctx, p.who, p.sub) }
	if p.client == "" {
		session, err := open()
		if err != nil {
			return nil, err
		}
		defer session.Close(false) // what it leased runs to its deadline
		return s.leaseHere(ctx, p, session)
	}
	kept, err := s.pulls.acquire(ctx, p, open)
	if err != nil {
		return nil, err
	}
	ds, err := s.leaseHere(ctx, p, kept.session)
	// A session that failed, other than by this call's own end, is not used again.
	s.pulls.release(kept, err != nil && ctx.Err() == nil)
	return ds, err
}

// leaseHere leases up to the limits of an answer. What does not fit any more goes back.
func (s *Service) leaseHere(ctx context.Context, p pull, session consume.Session) ([]*sluicev1.Delivery, error) {
	var got []consume.Delivery
	size := 0
	end := s.deps.Now().Add(p.wait)
	for wait := p.wait; len(got) < p.max && size < pullBytes; {
		if err := pending(session); err != nil {
			return s.keep(got, err)
		}
		ds, err := session.Next(ctx, min(p.max-len(got), frameMessages), wait)
		for i := range ds {
			size += deliveryBytes(&ds[i])
		}
		got = append(got, ds...)
		if err != nil {
			return s.keep(got, err)
		}
		if len(ds) > 0 {
			wait = 0 // more only if it is there
			continue
		}
		// None came: the time is over, or the session has something to say, which a pull has no use for.
		if wait = end.Sub(s.deps.Now()); len(got) > 0 || wait <= 0 {
			break
		}
	}
	if n := fit(got, pullBytes, len(got)); n < len(got) {
		s.metrics.returned.WithLabelValues("surplus").Add(float64(len(got) - n))
		session.Return(got[n:])
		got = got[:n]
	}
	return new(deliveryArena).encode(got), nil
}

// keep prefers messages to an error that will come again.
func (s *Service) keep(got []consume.Delivery, err error) ([]*sluicev1.Delivery, error) {
	if len(got) == 0 {
		return nil, err
	}
	return new(deliveryArena).encode(got), nil
}

// pending takes what the session has to say; a pull cares for its end alone.
func pending(session consume.Session) error {
	for {
		select {
		case ev, ok := <-session.Events():
			switch {
			case !ok:
				return fault.New(fault.Unavailable, "the session has ended; pull again")
			case ev.Err != nil:
				return ev.Err
			case ev.GoAway != "":
				return fault.New(fault.GoAway, "%s", ev.GoAway)
			}
		default:
			return nil
		}
	}
}
