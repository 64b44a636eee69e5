package data

import (
	"context"

	"github.com/sluice-mq/sluice/internal/auth"
	"github.com/sluice-mq/sluice/internal/consume"
	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/rpc"
	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
)

// Ack settles messages by their receipts.
func (s *Service) Ack(ctx context.Context, req *sluicev1.AckRequest) (*sluicev1.AckResponse, error) {
	if len(req.GetAcks()) == 0 {
		return nil, fault.New(fault.InvalidArgument, "the request has no acks; send at least one")
	}
	results, err := s.settle(ctx, rpc.Who(ctx), req.GetGroup(), req.GetAcks())
	if err != nil {
		return nil, err
	}
	return &sluicev1.AckResponse{Results: results}, nil
}

// settle hands well-formed acks to the engine and puts the results of all in order.
func (s *Service) settle(ctx context.Context, who auth.Who, group string, acks []*sluicev1.Ack) ([]*sluicev1.AckResult, error) {
	c, err := s.consumer()
	if err != nil {
		return nil, err
	}
	if group == "" {
		return nil, fault.New(fault.InvalidArgument, "the request names no group")
	}
	if len(acks) > maxAcks {
		return nil, fault.New(fault.InvalidArgument, "the request has %d acks; at most %d are allowed, send several requests", len(acks), maxAcks)
	}
	good, results := decodeAcks(acks)
	if len(good) > 0 {
		settled := c.Settle(ctx, who, group, good)
		next := 0
		for i := range results {
			if results[i] == nil && next < len(settled) {
				results[i] = settled[next]
				next++
			}
		}
	}
	// One block for all; a result without an error is shared, since nobody changes it.
	out := make([]*sluicev1.AckResult, len(results))
	for i, e := range results {
		if e == nil {
			out[i] = okResult
			continue
		}
		out[i] = &sluicev1.AckResult{Error: s.faults.Proto(e)}
	}
	return out, nil
}

var okResult = &sluicev1.AckResult{}

// giveBack returns messages that did not reach the client: at once, no attempt counted. It does not depend on the
// client's call, which may have ended; what cannot be returned runs to its deadline.
func (s *Service) giveBack(ctx context.Context, who auth.Who, group, cause string, ds []*sluicev1.Delivery) {
	if len(ds) == 0 {
		return
	}
	s.metrics.returned.WithLabelValues(cause).Add(float64(len(ds)))
	acks := make([]consume.Ack, len(ds))
	for i, d := range ds {
		acks[i] = consume.Ack{Receipt: d.GetReceipt(), Action: consume.Return}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	failed := 0
	var last *fault.Error
	for _, e := range s.deps.Consumer.Settle(ctx, who, group, acks) {
		if e != nil {
			failed++
			last = e
		}
	}
	if failed > 0 {
		s.deps.Log.Warn("messages not given back; they come again when their leases end", "group", group, "messages", failed, "err", last)
	}
}
