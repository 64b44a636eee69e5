package sluicetest

import (
	"context"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
)

// session is one consume stream. Server.mu guards what changes.
type session struct {
	n      *node
	g      *group
	lease  time.Duration
	credit int
}

// Ack implements sluicev1.ConsumerServiceServer.
func (n *node) Ack(_ context.Context, req *sluicev1.AckRequest) (*sluicev1.AckResponse, error) {
	return &sluicev1.AckResponse{Results: n.s.settleAll(req.GetGroup(), req.GetAcks())}, nil
}

func (s *Server) settleAll(group string, acks []*sluicev1.Ack) []*sluicev1.AckResult {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*sluicev1.AckResult, len(acks))
	for i, a := range acks {
		out[i] = &sluicev1.AckResult{Error: s.settle(group, a)}
	}
	s.changed()
	return out
}

// Consume implements sluicev1.ConsumerServiceServer.
func (n *node) Consume(stream sluicev1.ConsumerService_ConsumeServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	sub := first.GetOpen()
	x, opened, failed := n.open(sub)
	if failed != nil {
		return failed
	}
	if err := stream.Send(&sluicev1.ConsumeResponse{Frame: &sluicev1.ConsumeResponse_Opened{Opened: opened}}); err != nil {
		return err
	}
	answers := make(chan *sluicev1.ConsumeResponse, 64)
	ended := make(chan error, 1)
	n.s.wg.Go(func() { ended <- x.read(stream, sub.GetGroup(), answers) })
	return x.write(stream, answers, ended, len(opened.GetNodes().GetNodes()))
}

func (n *node) open(sub *sluicev1.Subscription) (*session, *sluicev1.ConsumeOpened, error) {
	s := n.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if n.leaving {
		return nil, nil, failed(codes.Unavailable, &sluicev1.Error{Reason: sluicev1.Reason_REASON_GO_AWAY, Message: "the node is leaving"})
	}
	g, bad := s.group(sub)
	if bad != nil {
		return nil, nil, failed(codes.FailedPrecondition, bad)
	}
	x := &session{n: n, g: g, lease: time.Duration(sub.GetLeaseMs()) * time.Millisecond}
	if x.lease == 0 {
		x.lease = 30 * time.Second
	}
	return x, &sluicev1.ConsumeOpened{Subscription: sub, Nodes: &sluicev1.GroupNodes{Nodes: s.describe()}}, nil
}

func failed(code codes.Code, e *sluicev1.Error) error {
	st, err := status.New(code, e.GetMessage()).WithDetails(e)
	if err != nil {
		return status.Error(code, e.GetMessage())
	}
	return st.Err()
}

// read takes the client's frames.
func (x *session) read(stream sluicev1.ConsumerService_ConsumeServer, group string, answers chan<- *sluicev1.ConsumeResponse) error {
	for {
		f, err := stream.Recv()
		if err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		switch f := f.GetFrame().(type) {
		case *sluicev1.ConsumeRequest_Credit:
			x.n.s.mu.Lock()
			x.credit += int(f.Credit)
			x.n.s.changed()
			x.n.s.mu.Unlock()
		case *sluicev1.ConsumeRequest_Acks:
			a := &sluicev1.ConsumeResponse{Frame: &sluicev1.ConsumeResponse_Acks{Acks: &sluicev1.ConsumeAckResults{
				Request: f.Acks.GetRequest(), Results: x.n.s.settleAll(group, f.Acks.GetAcks()),
			}}}
			select {
			case answers <- a:
			case <-stream.Context().Done():
				return stream.Context().Err()
			}
		}
	}
}

// write sends deliveries, answers and news until the client is done.
func (x *session) write(stream sluicev1.ConsumerService_ConsumeServer, answers <-chan *sluicev1.ConsumeResponse, ended <-chan error, nodes int) error {
	s := x.n.s
	for told := false; ; {
		s.mu.Lock()
		change := s.change
		ds := s.next(x, x.credit)
		x.credit -= len(ds)
		var news []*sluicev1.ConsumeResponse
		if len(ds) > 0 {
			news = append(news, &sluicev1.ConsumeResponse{Frame: &sluicev1.ConsumeResponse_Deliveries{Deliveries: &sluicev1.Deliveries{Messages: ds}}})
		}
		if now := s.describe(); len(now) != nodes {
			nodes = len(now)
			news = append(news, &sluicev1.ConsumeResponse{Frame: &sluicev1.ConsumeResponse_Nodes{Nodes: &sluicev1.GroupNodes{Nodes: now}}})
		}
		if x.n.leaving && !told {
			told = true
			news = append(news, &sluicev1.ConsumeResponse{Frame: &sluicev1.ConsumeResponse_GoAway{GoAway: &sluicev1.GoAway{Message: "the test said so"}}})
		}
		s.mu.Unlock()
		for _, f := range news {
			if err := stream.Send(f); err != nil {
				return err
			}
		}
		select {
		case <-change:
		case a := <-answers:
			if err := stream.Send(a); err != nil {
				return err
			}
		case err := <-ended:
			for {
				select {
				case a := <-answers:
					if err := stream.Send(a); err != nil {
						return err
					}
					continue
				default:
				}
				return err
			}
		}
	}
}
