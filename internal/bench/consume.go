package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
)

// pull is the step of credits, and how many answers one frame of acks holds at most.
const pull = 100

// ConsumeConfig says what to consume.
type ConsumeConfig struct {
	Dial      Dialer   // through a node
	Direct    []string // or straight from these Kafka brokers
	ServerCPU func() (float64, error)
	Topic     string
	Group     string
	Messages  int64 // of all consumers together; the measurement ends when they are answered
	Order     sluicev1.Order
	Consumers int // each with a connection and a stream; 0: 1
	InFlight  int // messages out at a consumer, in steps of 100; 0: 1,000
	// Idle ends the measurement with an error when nothing came for so long; 0: 30 s.
	Idle     time.Duration
	Progress func(done int64) // as in PublishConfig
}

func (c *ConsumeConfig) setDefaults() error {
	if c.Consumers == 0 {
		c.Consumers = 1
	}
	if c.InFlight == 0 {
		c.InFlight = 1000
	}
	if c.Idle == 0 {
		c.Idle = 30 * time.Second
	}
	switch {
	case c.Topic == "" || c.Group == "":
		return errors.New("bench: a topic and a group are needed")
	case c.Messages < 1:
		return fmt.Errorf("bench: messages is %d; at least 1 is needed", c.Messages)
	case c.Consumers < 1 || c.InFlight < pull:
		return fmt.Errorf("bench: at least 1 consumer and %d messages in flight are needed", pull)
	case (c.Dial == nil) == (len(c.Direct) == 0):
		return errors.New("bench: either a node or brokers to reach directly are needed")
	}
	return nil
}

// consumption is what all consumers of one measurement share.
type consumption struct {
	cfg   ConsumeConfig
	left  atomic.Int64
	idle  *time.Timer
	first sync.Once
	m     *meter // set by the first delivery
	stop  context.CancelCauseFunc
}

var (
	errEnough = errors.New("all messages came")
	errIdle   = errors.New("no message came for the idle time; are there enough in the topic that the group has not read?")
)

// Consume consumes, accepts every message and measures from the first delivery,
// joining a group being another matter, until as many as asked for were answered.
// A latency is that of an answer: from sending an acceptance to its confirmation
// (direct: the age of a record when it is polled). Acceptances that were not
// recorded are Errors.
func Consume(ctx context.Context, cfg ConsumeConfig) (Result, error) {
	if err := cfg.setDefaults(); err != nil {
		return Result{}, err
	}
	c := &consumption{cfg: cfg}
	ctx, c.stop = context.WithCancelCause(ctx)
	defer c.stop(nil)
	c.left.Store(cfg.Messages)
	c.idle = time.AfterFunc(cfg.Idle, func() { c.stop(errIdle) })
	defer c.idle.Stop()

	workers := make([]*worker, cfg.Consumers)
	var all errgroup.Group
	for i := range workers {
		workers[i] = &worker{}
		run, closeIt, err := c.open(ctx, i, workers[i])
		if err != nil {
			c.stop(err)
			return Result{}, errors.Join(err, all.Wait())
		}
		defer closeIt()
		all.Go(func() error {
			err := run()
			if err != nil {
				c.stop(err)
			}
			return err
		})
	}
	err := all.Wait()
	if c.m == nil { // nothing ever came
		return Result{}, err
	}
	return c.m.result(workers), err
}

// began starts the measurement at the first delivery.
func (c *consumption) began() {
	c.first.Do(func() { c.m = startMeter(c.cfg.ServerCPU) })
}

// got counts answered messages and ends the measurement with the last one.
func (c *consumption) got(n int) {
	c.idle.Reset(c.cfg.Idle)
	left := c.left.Add(-int64(n))
	if c.cfg.Progress != nil {
		c.cfg.Progress(c.cfg.Messages - max(left, 0))
	}
	if left <= 0 {
		c.stop(errEnough)
	}
}

// ended says why ctx did: nil when all messages came.
func (c *consumption) ended(ctx context.Context) error {
	if err := context.Cause(ctx); !errors.Is(err, errEnough) {
		return err
	}
	return nil
}

func (c *consumption) open(ctx context.Context, i int, w *worker) (run func() error, closeIt func(), err error) {
	if len(c.cfg.Direct) > 0 {
		return c.openDirect(ctx, w)
	}
	conn, err := c.cfg.Dial()
	if err != nil {
		return nil, nil, fmt.Errorf("connect consumer %d: %w", i, err)
	}
	stream, err := sluicev1.NewConsumerServiceClient(conn).Consume(ctx)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("open a consume stream: %w", err), conn.Close())
	}
	r := &consumer{consumption: c, w: w, stream: stream, out: map[uint64]sent{}}
	return func() error { return r.run(ctx) }, func() { _ = conn.Close() }, nil // what is leased goes back by itself
}

// consumer is one consume stream, worked by one goroutine.
type consumer struct {
	*consumption
	w       *worker
	stream  grpc.BidiStreamingClient[sluicev1.ConsumeRequest, sluicev1.ConsumeResponse]
	request uint64
	acks    []*sluicev1.Ack
	out     map[uint64]sent // frames of acks that are not answered
}

func (c *consumer) run(ctx context.Context) error {
	sub := &sluicev1.Subscription{
		Group: c.cfg.Group, Topics: []string{c.cfg.Topic}, Order: c.cfg.Order, MaxInFlight: uint32(c.cfg.InFlight),
	}
	err := c.stream.Send(&sluicev1.ConsumeRequest{Frame: &sluicev1.ConsumeRequest_Open{Open: sub}})
	if err == nil {
		err = c.credit(c.cfg.InFlight / pull * pull)
	}
	for err == nil {
		var res *sluicev1.ConsumeResponse
		if res, err = c.stream.Recv(); err == nil {
			err = c.take(res)
		}
	}
	if ctx.Err() != nil {
		return c.ended(ctx)
	}
	if errors.Is(err, io.EOF) { // of Send: it says only that the stream ended, Recv says why
		_, err = c.stream.Recv()
	}
	return fmt.Errorf("consume stream: %w", err)
}

func (c *consumer) credit(n int) error {
	return c.stream.Send(&sluicev1.ConsumeRequest{Frame: &sluicev1.ConsumeRequest_Credit{Credit: uint32(n)}})
}

// take works on one frame from the node.
func (c *consumer) take(res *sluicev1.ConsumeResponse) error {
	switch f := res.GetFrame().(type) {
	case *sluicev1.ConsumeResponse_Deliveries:
		return c.deliveries(f.Deliveries.GetMessages())
	case *sluicev1.ConsumeResponse_Acks:
		return c.answered(f.Acks)
	case *sluicev1.ConsumeResponse_GoAway:
		return errors.New("the node asks its clients to leave")
	case *sluicev1.ConsumeResponse_Revoked:
		c.w.fail(int64(len(f.Revoked.GetReceipts())), "leases were revoked")
	}
	return nil
}

// deliveries accepts what came, at once (to wait for a full hundred would stop
// ordered groups, which get no more before they answer), and asks for as many more.
func (c *consumer) deliveries(ds []*sluicev1.Delivery) error {
	c.began()
	for _, d := range ds {
		c.w.bytes += int64(len(d.GetBody()))
		c.acks = append(c.acks, &sluicev1.Ack{Receipt: d.GetReceipt(), Action: sluicev1.Action_ACTION_ACCEPT})
		if len(c.acks) == pull {
			if err := c.flush(); err != nil {
				return err
			}
		}
	}
	return c.flush()
}

func (c *consumer) flush() error {
	n := len(c.acks)
	if n == 0 {
		return nil
	}
	c.request++
	c.out[c.request] = sent{time.Now(), n}
	acks := &sluicev1.ConsumeRequest_Acks{Acks: &sluicev1.ConsumeAcks{Request: c.request, Acks: c.acks}}
	if err := c.stream.Send(&sluicev1.ConsumeRequest{Frame: acks}); err != nil {
		return err
	}
	c.acks = nil // they belong to the frame, which gRPC may still hold
	return c.credit(n)
}

// answered counts a frame's acknowledgements.
func (c *consumer) answered(res *sluicev1.ConsumeAckResults) error {
	s, known := c.out[res.GetRequest()]
	delete(c.out, res.GetRequest())
	if !known || len(res.GetResults()) != s.n {
		return fmt.Errorf("%d answers to frame %d of acks, %d were out", len(res.GetResults()), res.GetRequest(), s.n)
	}
	ok := 0
	for _, r := range res.GetResults() {
		if e := r.GetError(); e != nil {
			c.w.fail(1, "%s: %s", e.GetReason(), e.GetMessage())
		} else {
			ok++
		}
	}
	c.w.messages += int64(ok)
	c.w.hist.add(time.Since(s.due), int64(ok))
	c.got(s.n)
	return nil
}
