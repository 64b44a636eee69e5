package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"

	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/grpc"

	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
)

// consumer gives each stream a member of the Kafka group of its own.
type consumer struct {
	sluicev1.UnimplementedConsumerServiceServer
	brokers []string
}

type consumeServer = grpc.BidiStreamingServer[sluicev1.ConsumeRequest, sluicev1.ConsumeResponse]

// consumeStream reads from Kafka as long as there are credits.
type consumeStream struct {
	stream consumeServer
	cl     *kgo.Client
	wake   chan struct{} // there are more credits

	send    sync.Mutex // one Send at a time
	mu      sync.Mutex // guards credits
	credits int
}

// Consume streams what franz-go polls; offsets are committed as franz-go does by
// itself, for what was polled.
func (c *consumer) Consume(stream consumeServer) error {
	frame, err := stream.Recv()
	if err != nil {
		return err
	}
	sub := frame.GetOpen()
	if sub == nil {
		return errors.New("the first frame must open the stream")
	}
	cl, err := kgo.NewClient(
		kgo.SeedBrokers(c.brokers...), kgo.ConsumerGroup(sub.GetGroup()), kgo.ConsumeTopics(sub.GetTopics()...),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
	)
	if err != nil {
		return fmt.Errorf("set up the consumer: %w", err)
	}
	defer cl.Close()
	s := &consumeStream{stream: stream, cl: cl, wake: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(stream.Context())
	polled := make(chan error, 1)
	go func() { polled <- s.poll(ctx) }()
	err = s.read()
	cancel()
	return errors.Join(err, <-polled)
}

// read takes credits and acknowledgements until the client ends.
func (s *consumeStream) read() error {
	for {
		frame, err := s.stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch f := frame.GetFrame().(type) {
		case *sluicev1.ConsumeRequest_Credit:
			s.mu.Lock()
			s.credits += int(f.Credit)
			s.mu.Unlock()
			select {
			case s.wake <- struct{}{}:
			default:
			}
		case *sluicev1.ConsumeRequest_Acks:
			if err := s.answer(f.Acks); err != nil {
				return err
			}
		}
	}
}

func (s *consumeStream) answer(acks *sluicev1.ConsumeAcks) error {
	slab, rs := make([]sluicev1.AckResult, len(acks.GetAcks())), make([]*sluicev1.AckResult, len(acks.GetAcks()))
	for i := range rs {
		rs[i] = &slab[i]
	}
	return s.write(&sluicev1.ConsumeResponse{Frame: &sluicev1.ConsumeResponse_Acks{Acks: &sluicev1.ConsumeAckResults{Request: acks.GetRequest(), Results: rs}}})
}

func (s *consumeStream) write(res *sluicev1.ConsumeResponse) error {
	s.send.Lock()
	defer s.send.Unlock()
	return s.stream.Send(res)
}

// poll sends records, at most a hundred a frame, for the credits there are.
func (s *consumeStream) poll(ctx context.Context) error {
	for {
		n := s.take(ctx)
		if n == 0 {
			return nil
		}
		fs := s.cl.PollRecords(ctx, n)
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
		ds := deliveries(fs)
		s.mu.Lock()
		s.credits += n - len(ds)
		s.mu.Unlock()
		if len(ds) == 0 {
			continue
		}
		if err := s.write(&sluicev1.ConsumeResponse{Frame: &sluicev1.ConsumeResponse_Deliveries{Deliveries: &sluicev1.Deliveries{Messages: ds}}}); err != nil {
			return err
		}
	}
}

// take waits for credits and takes up to a hundred; 0 when ctx ended.
func (s *consumeStream) take(ctx context.Context) int {
	for {
		s.mu.Lock()
		n := min(s.credits, 100)
		s.credits -= n
		s.mu.Unlock()
		if n > 0 {
			return n
		}
		select {
		case <-s.wake:
		case <-ctx.Done():
			return 0
		}
	}
}

func deliveries(fs kgo.Fetches) []*sluicev1.Delivery {
	n := fs.NumRecords()
	slab, ds := make([]sluicev1.Delivery, n), make([]*sluicev1.Delivery, 0, n)
	receipts := make([]byte, 16*n)
	fs.EachRecord(func(r *kgo.Record) {
		i := len(ds)
		d := &slab[i]
		receipt := receipts[16*i : 16*i+16 : 16*i+16]
		binary.BigEndian.PutUint64(receipt, uint64(r.Partition))
		binary.BigEndian.PutUint64(receipt[8:], uint64(r.Offset))
		d.Receipt, d.Key, d.Body = receipt, r.Key, r.Value
		d.Topic, d.Cluster, d.Partition, d.Offset = r.Topic, "kafka", strconv.Itoa(int(r.Partition)), r.Offset
		d.Attempt, d.PublishedAtMs = 1, r.Timestamp.UnixMilli()
		for _, h := range r.Headers {
			if h.Key == "sluice-id" {
				d.Id = string(h.Value)
				continue
			}
			d.Headers = append(d.Headers, &sluicev1.Header{Name: h.Key, Value: h.Value})
		}
		ds = append(ds, d)
	})
	return ds
}
