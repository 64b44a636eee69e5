package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/grpc"

	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
)

// producer hands messages to one franz-go client.
type producer struct {
	sluicev1.UnimplementedProducerServiceServer
	cl *kgo.Client
}

func newProducer(brokers []string) (*producer, error) {
	cl, err := kgo.NewClient(
		kgo.SeedBrokers(brokers...), kgo.RequiredAcks(kgo.AllISRAcks()), kgo.ProducerLinger(0),
		kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.MaxBufferedRecords(100_000),
	)
	if err != nil {
		return nil, fmt.Errorf("set up the producer: %w", err)
	}
	return &producer{cl: cl}, nil
}

type publishStream = grpc.BidiStreamingServer[sluicev1.PublishStreamRequest, sluicev1.PublishStreamResponse]

// PublishStream produces what comes and answers each frame once all of it is
// acknowledged. The reader is the handler's goroutine, the writer one of its own.
func (p *producer) PublishStream(stream publishStream) error {
	answers := make(chan *sluicev1.PublishStreamResponse, 1024)
	written := make(chan error, 1)
	go func() {
		var err error
		for a := range answers {
			if err == nil {
				err = stream.Send(a)
			}
		}
		written <- err
	}()
	err := p.read(stream, answers)
	close(answers)
	return errors.Join(err, <-written)
}

// read returns once every frame is answered.
func (p *producer) read(stream publishStream, answers chan<- *sluicev1.PublishStreamResponse) error {
	var topic string
	var out sync.WaitGroup
	defer out.Wait()
	for {
		frame, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if open := frame.GetOpen(); open != nil {
			topic = open.GetTopic()
			continue
		}
		out.Add(1)
		p.produce(topic, frame, func(a *sluicev1.PublishStreamResponse) {
			answers <- a
			out.Done()
		})
	}
}

// batch is one frame on its way.
type batch struct {
	request uint64
	open    atomic.Int32
	records []kgo.Record
	errs    []error
	done    func(*sluicev1.PublishStreamResponse)
}

func (p *producer) produce(topic string, frame *sluicev1.PublishStreamRequest, done func(*sluicev1.PublishStreamResponse)) {
	ms := frame.GetPublish().GetMessages()
	b := &batch{request: frame.GetRequest(), records: make([]kgo.Record, len(ms)), errs: make([]error, len(ms)), done: done}
	b.open.Store(int32(len(ms)))
	ids := make([]kgo.RecordHeader, len(ms))
	for i, m := range ms {
		ids[i] = kgo.RecordHeader{Key: "sluice-id", Value: []byte(m.GetId())}
		r := &b.records[i]
		r.Topic, r.Key, r.Value, r.Headers = topic, m.Key, m.Body, ids[i:i+1:i+1]
		for _, h := range m.GetHeaders() {
			r.Headers = append(r.Headers, kgo.RecordHeader{Key: h.GetName(), Value: h.GetValue()})
		}
		p.cl.Produce(context.Background(), r, func(_ *kgo.Record, err error) {
			b.errs[i] = err
			if b.open.Add(-1) == 0 {
				b.answer()
			}
		})
	}
}

func (b *batch) answer() {
	res := &sluicev1.PublishResponse{Results: make([]*sluicev1.PublishResult, len(b.records))}
	slab := make([]sluicev1.PublishResult, len(b.records))
	places := map[int32]uint32{}
	for i := range b.records {
		r, out := &b.records[i], &slab[i]
		res.Results[i] = out
		if err := b.errs[i]; err != nil {
			out.Status = sluicev1.Status_STATUS_MAYBE_SENT
			out.Error = &sluicev1.Error{Reason: sluicev1.Reason_REASON_UNAVAILABLE, Message: err.Error(), MaybeSent: true}
			continue
		}
		place, known := places[r.Partition]
		if !known {
			place = uint32(len(res.Places))
			places[r.Partition] = place
			res.Places = append(res.Places, &sluicev1.Place{Cluster: "kafka", Partition: strconv.Itoa(int(r.Partition))})
		}
		out.Status, out.Place, out.Offset = sluicev1.Status_STATUS_STORED, place, r.Offset
	}
	b.done(&sluicev1.PublishStreamResponse{Request: b.request, Frame: &sluicev1.PublishStreamResponse_Publish{Publish: res}})
}
