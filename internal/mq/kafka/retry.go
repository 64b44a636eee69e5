package kafka

import (
	"context"
	"time"

	"github.com/sluice-mq/sluice/internal/mq"
)

// retry repeats f while it says so, with growing pauses, for at most AdminTimeout and ctx; then f's last error counts.
func (d *Driver) retry(ctx context.Context, f func() (again bool, err error)) error {
	end := time.Now().Add(d.cfg.AdminTimeout)
	for try := 1; ; try++ {
		again, err := f()
		if err == nil || !again {
			return err
		}
		pause := backoff(try)
		if time.Now().Add(pause).After(end) {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return err
		case <-d.ctx.Done():
			return errClosed()
		}
	}
}

// retriable tells whether a request that changes nothing, or the same thing again, is worth repeating.
func retriable(err error) bool {
	return err != nil && mq.ClassOf(err).Retriable()
}
