package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluice-mq/sluice/sdk/go"
)

const (
	// subBatch is the most messages that are printed before the output is flushed and they are answered.
	subBatch = 500
	// subClose is how long giving back what was not printed may take.
	subClose = 10 * time.Second
	// Exit codes of --exec.
	execRelease = 75 // EX_TEMPFAIL
	execReject  = 100
)

type subFlags struct {
	sub                           sluice.Subscription
	order, from, ack, exec, shape string
	count                         int
	timeout                       time.Duration
}

func (a *app) subCommand() *cobra.Command {
	var f subFlags
	c := &cobra.Command{
		Use:   "sub TOPIC... --group G",
		Short: "Consume messages and print them",
		Long: "Consume messages of a group, print each and answer it once it is printed.\n\n" +
			"--exec runs a shell command for each message, the body on its stdin: exit code 0 accepts, 75 releases, 100 rejects,\n" +
			"any other one releases. --format prints by " + verbHelp + "; %v{hex}, {base64}, {json}; \\n \\t \\xHH.",
		Args: args(1, -1, "TOPIC..."),
		RunE: func(c *cobra.Command, topics []string) error {
			f.sub.Topics = topics
			p, err := f.check(a)
			if err != nil {
				return err
			}
			return a.sub(c.Context(), &f, p)
		},
	}
	fl := c.Flags()
	fl.StringVar(&f.sub.Group, "group", "", "consumer group")
	fl.StringVar(&f.order, "order", "", "none, key or partition; the group's own without")
	fl.StringVar(&f.from, "from", "", "where a new group begins: earliest (default), latest or an RFC 3339 time")
	fl.IntVar(&f.count, "count", 0, "end after so many accepted messages")
	fl.DurationVar(&f.timeout, "timeout", 0, "end when no message came for so long")
	fl.IntVar(&f.sub.MaxInFlight, "max-in-flight", 0, "most messages delivered and not answered (default 256)")
	fl.DurationVar(&f.sub.Lease, "lease", 0, "how long a message is this consumer's (default 30s)")
	fl.StringVar(&f.ack, "ack", "accept", "answer: accept, release, reject or none")
	fl.StringVar(&f.exec, "exec", "", "shell command to run for each message")
	fl.StringVar(&f.shape, "format", "", "how messages are printed, such as '%k %v\\n'")
	return c
}

func (f *subFlags) check(a *app) (*messagePrinter, error) {
	if f.sub.Group == "" {
		return nil, usage("sub: needs --group")
	}
	switch f.order {
	case "":
	case "none":
		f.sub.Order = sluice.None
	case "key":
		f.sub.Order = sluice.ByKey
	case "partition":
		f.sub.Order = sluice.ByPartition
	default:
		return nil, usage("order %q: is unknown; use none, key or partition", f.order)
	}
	switch f.ack {
	case "accept", "release", "reject":
	case "none":
		f.sub.MaxLease = -1 // what nobody answers comes again
	default:
		return nil, usage("ack %q: is unknown; use accept, release, reject or none", f.ack)
	}
	if f.exec != "" && f.ack != "accept" {
		return nil, usage("sub: with --exec the exit code answers; leave out --ack")
	}
	if f.count < 0 || f.timeout < 0 {
		return nil, usage("sub: --count and --timeout must not be negative")
	}
	f.sub.Start = f.from
	var shape *format
	if f.shape != "" {
		var err error
		if shape, err = parseFormat(f.shape); err != nil {
			return nil, err
		}
	}
	return a.newMessagePrinter(shape), nil
}

// sub receives, prints, flushes and answers, in this order: what was not written is never accepted.
func (a *app) sub(ctx context.Context, f *subFlags, p *messagePrinter) error {
	client, err := a.connect(ctx)
	if err != nil {
		return err
	}
	closing := func() (context.Context, context.CancelFunc) {
		return context.WithTimeout(context.WithoutCancel(ctx), subClose)
	}
	defer func() {
		c, cancel := closing()
		defer cancel()
		_ = client.Close(c) // what was not settled comes again
	}()
	rc, err := client.Receiver(ctx, f.sub)
	if err != nil {
		return err
	}
	s := &subscriber{app: a, f: f, p: p, rc: rc, progress: a.startProgress("consume", int64(f.count))}
	s.answered.L = &s.mu
	err = s.run(ctx)
	s.settling.Wait()
	s.progress.end()
	c, cancel := closing()
	defer cancel()
	return errors.Join(err, s.outcome(ctx), rc.Close(c))
}

// subscriber is one running sub.
type subscriber struct {
	app      *app
	f        *subFlags
	p        *messagePrinter
	rc       *sluice.Receiver
	progress *progress
	settling sync.WaitGroup

	mu       sync.Mutex // guards what follows
	answered sync.Cond  // an answer came
	pending  int        // printed, not answered yet
	accepted int
	last     time.Time // of the last accepted message
	failures int
}

// run works until the count is reached, nothing came for the time-out, or ctx ends.
func (s *subscriber) run(ctx context.Context) error {
	s.last = time.Now()
	for {
		room, wait := s.room()
		if room == 0 || wait <= 0 {
			return nil
		}
		ds, err := s.rc.Next(ctx, room, wait)
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("group %s: %w", s.f.sub.Group, err)
		}
		if err := s.work(ctx, ds); err != nil {
			return err
		}
	}
}

// room is how many more messages may be printed: none where the count is reached. While answers are out that may
// still reach it, it waits for them.
func (s *subscriber) room() (n int, wait time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, wait = subBatch, time.Minute
	if s.f.count > 0 {
		for s.pending > 0 && s.f.count <= s.accepted+s.pending {
			s.answered.Wait()
		}
		n = min(n, s.f.count-s.accepted-s.pending)
	}
	if s.f.timeout > 0 {
		wait = s.f.timeout - time.Since(s.last)
	}
	return n, wait
}

// work prints a batch and answers it.
func (s *subscriber) work(ctx context.Context, ds []*sluice.Delivery) error {
	now := time.Now()
	if s.f.exec != "" {
		return s.execute(ctx, ds, now)
	}
	for _, d := range ds {
		if err := s.p.print(ofDelivery(d, now)); err != nil {
			return fmt.Errorf("output: %w", err)
		}
	}
	if err := s.p.flush(); err != nil {
		return fmt.Errorf("output: %w", err)
	}
	for _, d := range ds {
		s.settle(ctx, d, s.f.ack)
	}
	return nil
}

// execute runs the command for each message and prints what it accepted.
func (s *subscriber) execute(ctx context.Context, ds []*sluice.Delivery, now time.Time) error {
	for _, d := range ds {
		if ctx.Err() != nil {
			return ctx.Err() // the rest is given back
		}
		ack, err := s.app.command(ctx, s.f.exec, d)
		if err != nil {
			return err
		}
		if err := errors.Join(s.p.print(ofDelivery(d, now)), s.p.flush()); err != nil {
			return fmt.Errorf("output: %w", err)
		}
		s.settle(ctx, d, ack)
	}
	return nil
}

// command runs CMD with the body on stdin and the message's data in its environment. Its output goes to stderr, so
// that stdout holds messages only.
func (a *app) command(ctx context.Context, cmd string, d *sluice.Delivery) (ack string, err error) {
	c := exec.CommandContext(ctx, "/bin/sh", "-c", cmd)
	c.Cancel = func() error { return c.Process.Signal(os.Interrupt) } // let it end by itself
	c.WaitDelay = subClose
	c.Stdin = bytes.NewReader(d.Body)
	c.Stdout, c.Stderr = a.Err, a.Err
	c.Env = append(a.environ,
		"SLUICE_MESSAGE_ID="+d.ID, "SLUICE_MESSAGE_TOPIC="+d.Topic, "SLUICE_MESSAGE_PARTITION="+d.Partition,
		fmt.Sprintf("SLUICE_MESSAGE_OFFSET=%d", d.Offset), fmt.Sprintf("SLUICE_MESSAGE_ATTEMPT=%d", d.Attempt),
		"SLUICE_MESSAGE_TAG="+d.Tag, "SLUICE_MESSAGE_KEY="+withoutZero(d.Key))
	err = c.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return "accept", nil
	case !errors.As(err, &exit):
		return "", fmt.Errorf("exec %q: %w", cmd, err)
	case exit.ExitCode() == execReject:
		return "reject", nil
	default: // execRelease and the rest
		return "release", nil
	}
}

// withoutZero drops zero bytes, which no environment can hold.
func withoutZero(b []byte) string { return string(bytes.ReplaceAll(b, []byte{0}, nil)) }

// settle answers a printed message in the background.
func (s *subscriber) settle(ctx context.Context, d *sluice.Delivery, ack string) {
	s.mu.Lock()
	s.pending++
	s.mu.Unlock()
	if ack == "none" {
		s.settled("none", nil) // printed is all that was asked for
		return
	}
	s.settling.Go(func() {
		// A Ctrl-C must not leave an accepted message unanswered for want of patience.
		c, cancel := context.WithTimeout(context.WithoutCancel(ctx), subClose)
		defer cancel()
		var err error
		switch ack {
		case "accept":
			err = d.Accept(c)
		case "release":
			err = d.Release(c, 0)
		case "reject":
			err = d.Reject(c, "rejected by sluice sub")
		}
		s.settled(ack, err)
	})
}

// settled counts an answer. A message passes from pending to accepted in one step: in between room would see space
// for one more than was asked for.
func (s *subscriber) settled(ack string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.answered.Broadcast()
	s.pending--
	switch {
	case err != nil:
		if s.failures++; s.failures <= shownFailures {
			s.app.note("a printed message was not settled and comes again: %s", describe(err))
		}
	case ack == "accept" || s.f.ack == ack:
		s.accepted++
		s.last = time.Now()
		s.progress.add(1)
	}
}

// outcome is an error where fewer were accepted than asked for.
func (s *subscriber) outcome(ctx context.Context) error {
	if s.f.count > 0 && s.accepted < s.f.count && ctx.Err() == nil {
		return fmt.Errorf("group %s: %d of %d messages came before the time-out", s.f.sub.Group, s.accepted, s.f.count)
	}
	return nil
}
