package sluice

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// Client is a connection to Sluice. It may be used from many goroutines.
type Client struct {
	opts  options
	log   *slog.Logger
	nodes *nodes

	mu     sync.Mutex // guards closed, open, refs
	closed bool
	open   map[closer]struct{}
}

// closer is a publisher or a receiver.
type closer interface {
	Close(ctx context.Context) error
}

// Connect finds the nodes of Sluice through the seeds, a comma-separated list of host:port. It returns as soon as one
// seed answers, and fails with what each said where none does: at once where all refuse, at the latest when ctx ends
// (or after 10 s, where it has no deadline). The context is not needed after that.
func Connect(ctx context.Context, seeds string, opts ...Option) (*Client, error) {
	o := options{log: slog.New(slog.DiscardHandler), refresh: 30 * time.Second}
	for _, opt := range opts {
		opt(&o)
	}
	var addrs []string
	for a := range strings.SplitSeq(seeds, ",") {
		if a = strings.TrimSpace(a); a != "" {
			addrs = append(addrs, a)
		}
	}
	if len(addrs) == 0 {
		return nil, failure(ReasonInvalidArgument, "no address to connect to; give at least one host:port")
	}
	if o.refresh <= 0 {
		o.refresh = 30 * time.Second
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
	}
	c := &Client{opts: o, log: o.log, nodes: newNodes(addrs, &o), open: map[closer]struct{}{}}
	if err := c.nodes.discover(ctx); err != nil {
		c.nodes.close()
		return nil, err
	}
	c.nodes.start(o.refresh)
	return c, nil
}

// Close closes what the client opened, publishers and receivers included: publishers wait for their results, receivers
// drain, until ctx ends. What could not be finished then is given up, and the first failure is returned.
func (c *Client) Close(ctx context.Context) error {
	c.mu.Lock()
	c.closed = true
	open := make([]closer, 0, len(c.open))
	for x := range c.open {
		open = append(open, x)
	}
	c.mu.Unlock()
	errs := make([]error, len(open))
	var wg sync.WaitGroup
	for i, x := range open {
		wg.Go(func() { errs[i] = x.Close(ctx) })
	}
	wg.Wait()
	c.nodes.close()
	return errors.Join(errs...)
}

// add registers what Close has to close.
func (c *Client) add(x closer) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return errClosed()
	}
	c.open[x] = struct{}{}
	return nil
}

func (c *Client) remove(x closer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.open, x)
}

func errClosed() *Error {
	return failure(ReasonCancelled, "the client is closed")
}
