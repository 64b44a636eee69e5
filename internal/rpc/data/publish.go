package data

import (
	"context"

	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/publish"
	"github.com/sluice-mq/sluice/internal/rpc"
	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
)

// Publish stores a batch.
func (s *Service) Publish(ctx context.Context, req *sluicev1.PublishRequest) (*sluicev1.PublishResponse, error) {
	r, _, err := decodePublish(req)
	if err != nil {
		return nil, err
	}
	missing := missingIDs(r.Messages)
	addTrace(ctx, r.Messages)
	results, err := s.publish(ctx, r)
	if err != nil {
		return nil, err
	}
	e := publishEncoder{faults: s.faults}
	return e.encode(results, missing), nil
}

// publish waits for the results of a single batch. A caller that leaves is told that the batch may be stored.
func (s *Service) publish(ctx context.Context, r *publish.Request) ([]publish.Result, error) {
	p, err := s.publisher()
	if err != nil {
		return nil, err
	}
	results := make(chan []publish.Result, 1)
	p.Publish(ctx, rpc.Who(ctx), r, func(rs []publish.Result) { results <- rs })
	select {
	case rs := <-results:
		return rs, nil
	case <-ctx.Done():
	}
	// The engine answers at the end of the context too; both may be there.
	select {
	case rs := <-results:
		return rs, nil
	default:
		e := *s.faults.Fault(context.Cause(ctx))
		e.MaybeSent = true
		if e.Reason == fault.DeadlineExceeded {
			e.Text = "the call's deadline passed before the brokers answered; the messages may be stored, send them again with the same ids"
		}
		return nil, &e
	}
}
