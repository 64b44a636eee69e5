package embedded

import (
	"context"
	"sync/atomic"

	"github.com/sluice-mq/sluice/internal/mq"
)

// op is a change other than records, for which its caller waits: topics, deletions, positions.
type op struct {
	run    func(*tx) error // in the committer; with an error it must have staged nothing
	single bool            // alone in its transaction
	state  atomic.Int32
	done   chan error
}

func (o *op) size() int         { return 0 }
func (o *op) alone() bool       { return o.single }
func (o *op) begin() bool       { return o.state.CompareAndSwap(queued, inFlight) }
func (o *op) stage(t *tx) error { return o.run(t) }
func (o *op) finish(err error)  { o.done <- err }

// do has the committer carry out a change and waits for its sync. At ctx's end a change that was not begun is dropped.
func (s *Store) do(ctx context.Context, o *op) error {
	o.done = make(chan error, 1)
	if err := s.queue.push(o); err != nil {
		return err
	}
	select {
	case err := <-o.done:
		return err
	case <-ctx.Done():
		err := ended(ctx)
		err.MaybeSent = !o.state.CompareAndSwap(queued, answered)
		return err
	}
}

// alone makes a change that looks at what is stored, and so must not share a transaction.
func (s *Store) alone(ctx context.Context, run func(*tx) error) error {
	if err := s.ready(ctx); err != nil {
		return err
	}
	return s.do(ctx, &op{run: run, single: true})
}

var (
	_ request     = (*op)(nil)
	_ request     = (*write)(nil)
	_ mq.Producer = producer{}
)
