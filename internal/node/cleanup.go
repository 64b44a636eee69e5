package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
)

// cleanups are undone in the reverse order of their registration.
type cleanups struct {
	steps []cleanup
}

type cleanup struct {
	name string
	undo func(context.Context) error
}

func (c *cleanups) add(name string, undo func(context.Context) error) {
	c.steps = append(c.steps, cleanup{name, undo})
}

// run undoes everything once and names what failed.
func (c *cleanups) run(ctx context.Context, log *slog.Logger) error {
	var errs []error
	for len(c.steps) > 0 {
		last := c.steps[len(c.steps)-1]
		c.steps = c.steps[:len(c.steps)-1]
		log.Debug("stopping", "part", last.name)
		if err := last.undo(ctx); err != nil {
			errs = append(errs, fmt.Errorf("stop %s: %w", last.name, err))
		}
	}
	return errors.Join(errs...)
}

// plain adapts a clean-up that neither waits nor fails.
func plain(f func()) func(context.Context) error {
	return func(context.Context) error { f(); return nil }
}
