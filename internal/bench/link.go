package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
	"uuid"

	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/grpc"

	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
)

// nodeLink goes through a node: a publish stream and a consume stream.
type nodeLink struct {
	topic   string
	conn    *grpc.ClientConn
	pub     grpc.BidiStreamingClient[sluicev1.PublishStreamRequest, sluicev1.PublishStreamResponse]
	sub     grpc.BidiStreamingClient[sluicev1.ConsumeRequest, sluicev1.ConsumeResponse]
	group   string
	request uint64
	cancel  context.CancelFunc
	answers sync.WaitGroup

	mu  sync.Mutex // guards out
	out map[uint64]func(error)
}

func newNodeLink(ctx context.Context, cfg LatencyConfig, run uint64) (*nodeLink, error) {
	conn, err := cfg.Dial()
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	l := &nodeLink{topic: cfg.Topic, conn: conn, group: fmt.Sprintf("bench-latency-%x", run), cancel: cancel, out: map[uint64]func(error){}}
	if l.pub, err = sluicev1.NewProducerServiceClient(conn).PublishStream(ctx); err == nil {
		l.sub, err = sluicev1.NewConsumerServiceClient(conn).Consume(ctx)
	}
	if err == nil {
		open := &sluicev1.PublishOpen{Topic: cfg.Topic, Producer: l.group}
		err = l.pub.Send(&sluicev1.PublishStreamRequest{Frame: &sluicev1.PublishStreamRequest_Open{Open: open}})
	}
	if err != nil {
		cancel()
		return nil, errors.Join(fmt.Errorf("open the streams: %w", err), conn.Close())
	}
	l.answers.Go(l.receive)
	return l, nil
}

func (l *nodeLink) close() {
	l.cancel()
	l.answers.Wait()
	_ = l.conn.Close() // nothing is lost with it now
}

func (l *nodeLink) publish(body []byte, done func(error)) error {
	l.request++
	l.mu.Lock()
	l.out[l.request] = done
	l.mu.Unlock()
	m := &sluicev1.Message{Id: uuid.NewV7().String(), Body: body, Sequence: l.request}
	frame := &sluicev1.PublishStreamRequest_Publish{Publish: &sluicev1.PublishRequest{Messages: []*sluicev1.Message{m}}}
	if err := l.pub.Send(&sluicev1.PublishStreamRequest{Request: l.request, Frame: frame}); err != nil {
		return fmt.Errorf("publish to %s: the stream ended", l.topic)
	}
	return nil
}

// receive takes the answers until the stream ends, then fails what is out.
func (l *nodeLink) receive() {
	for {
		res, err := l.pub.Recv()
		if err != nil {
			l.mu.Lock()
			out := l.out
			l.out = map[uint64]func(error){}
			l.mu.Unlock()
			for _, done := range out {
				done(fmt.Errorf("publish stream: %w", err))
			}
			return
		}
		l.mu.Lock()
		done := l.out[res.GetRequest()]
		delete(l.out, res.GetRequest())
		l.mu.Unlock()
		if done != nil {
			done(verdict(res))
		}
	}
}

// verdict is nil where the answer's one message was stored.
func verdict(res *sluicev1.PublishStreamResponse) error {
	e := res.GetError()
	if rs := res.GetPublish().GetResults(); e == nil && len(rs) == 1 {
		if rs[0].GetStatus() == sluicev1.Status_STATUS_STORED {
			return nil
		}
		e = rs[0].GetError()
	}
	return fmt.Errorf("%s: %s", e.GetReason(), e.GetMessage())
}

func (l *nodeLink) consume(ctx context.Context, got func([]byte)) error {
	sub := &sluicev1.Subscription{Group: l.group, Topics: []string{l.topic}, Start: "latest", MaxInFlight: 1000}
	err := l.sub.Send(&sluicev1.ConsumeRequest{Frame: &sluicev1.ConsumeRequest_Open{Open: sub}})
	if err == nil {
		err = l.sub.Send(&sluicev1.ConsumeRequest{Frame: &sluicev1.ConsumeRequest_Credit{Credit: 1000}})
	}
	stop := context.AfterFunc(ctx, l.cancel) // ends Recv
	defer stop()
	for err == nil {
		var res *sluicev1.ConsumeResponse
		if res, err = l.sub.Recv(); err == nil {
			err = l.accept(res.GetDeliveries().GetMessages(), got)
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	if errors.Is(err, io.EOF) { // of Send: it says only that the stream ended, Recv says why
		_, err = l.sub.Recv()
	}
	return fmt.Errorf("consume stream: %w", err)
}

func (l *nodeLink) accept(ds []*sluicev1.Delivery, got func([]byte)) error {
	if len(ds) == 0 {
		return nil
	}
	acks := make([]*sluicev1.Ack, len(ds))
	for i, d := range ds {
		got(d.GetBody())
		acks[i] = &sluicev1.Ack{Receipt: d.GetReceipt(), Action: sluicev1.Action_ACTION_ACCEPT}
	}
	err := l.sub.Send(&sluicev1.ConsumeRequest{Frame: &sluicev1.ConsumeRequest_Acks{Acks: &sluicev1.ConsumeAcks{Acks: acks}}})
	if err != nil {
		return err
	}
	return l.sub.Send(&sluicev1.ConsumeRequest{Frame: &sluicev1.ConsumeRequest_Credit{Credit: uint32(len(ds))}})
}

// directLink goes through Kafka alone.
type directLink struct {
	producer, consumer *kgo.Client
}

func newDirectLink(ctx context.Context, cfg LatencyConfig) (*directLink, error) {
	producer, err := directProducer(cfg.Direct, cfg.Topic)
	if err != nil {
		return nil, err
	}
	if err := producer.Ping(ctx); err != nil {
		producer.Close()
		return nil, fmt.Errorf("reach the brokers: %w", err)
	}
	consumer, err := kgo.NewClient(kgo.SeedBrokers(cfg.Direct...), kgo.ConsumeTopics(cfg.Topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtEnd()), kgo.FetchMaxWait(500*time.Millisecond))
	if err != nil {
		producer.Close()
		return nil, fmt.Errorf("set up a direct consumer: %w", err)
	}
	return &directLink{producer, consumer}, nil
}

func (l *directLink) close() {
	l.consumer.Close()
	l.producer.Close()
}

func (l *directLink) publish(body []byte, done func(error)) error {
	l.producer.Produce(context.Background(), &kgo.Record{Value: body}, func(_ *kgo.Record, err error) { done(err) })
	return nil
}

func (l *directLink) consume(ctx context.Context, got func([]byte)) error {
	for {
		fs := l.consumer.PollFetches(ctx)
		if ctx.Err() != nil {
			return nil
		}
		var errs []error
		fs.EachError(func(topic string, p int32, err error) {
			errs = append(errs, fmt.Errorf("fetch %s/%d: %w", topic, p, err))
		})
		if err := errors.Join(errs...); err != nil {
			return err
		}
		fs.EachRecord(func(r *kgo.Record) { got(r.Value) })
	}
}
