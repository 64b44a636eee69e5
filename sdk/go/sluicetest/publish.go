package sluicetest

import (
	"context"
	"fmt"
	"hash/fnv"
	"io"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluice-mq/sluice/sdk/go"
	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
)

// Message is a message as the fake stored it.
type Message struct {
	ID        string
	Key, Body []byte // nil: none
	Headers   []sluice.Header
	Tag       string
	Partition string
	Offset    int64
	// Producer and Sequence are those of the publisher; "" and 0 for delivered ones.
	Producer string
	Sequence uint64
	// Node is the index of the node that took it.
	Node int
}

// record is a stored message.
type record struct {
	msg       *sluicev1.Message
	topic     string
	partition int
	offset    int64
	producer  string
	node      int
}

// Published lists what a topic holds, in the order it was stored.
func (s *Server) Published(topic string) []Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Message, len(s.topics[topic]))
	for i, r := range s.topics[topic] {
		out[i] = Message{
			ID: r.msg.GetId(), Key: r.msg.Key, Body: r.msg.Body, Tag: r.msg.GetTag(), Partition: strconv.Itoa(r.partition),
			Offset: r.offset, Producer: r.producer, Sequence: r.msg.GetSequence(), Node: r.node,
		}
		for _, h := range r.msg.GetHeaders() {
			out[i].Headers = append(out[i].Headers, sluice.Header{Name: h.GetName(), Value: h.GetValue()})
		}
	}
	return out
}

// Deliver stores messages in a topic as if somebody had published them.
func (s *Server) Deliver(topic string, msgs ...sluice.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range msgs {
		m := &msgs[i]
		w := &sluicev1.Message{Id: m.ID, Key: m.Key, Body: m.Body, Tag: m.Tag, Partition: m.Partition}
		for name, v := range m.Headers {
			w.Headers = append(w.Headers, &sluicev1.Header{Name: name, Value: []byte(v)})
		}
		for _, h := range m.HeaderList {
			w.Headers = append(w.Headers, &sluicev1.Header{Name: h.Name, Value: h.Value})
		}
		s.append(topic, "", 0, w)
	}
	s.changed()
}

// FailNext makes the next n published messages fail: with err's Status (StatusNotSent where it has none), reason, text and
// advice.
func (s *Server) FailNext(n int, err *sluice.Error) {
	st := sluicev1.Status_STATUS_NOT_SENT
	if err.Status != 0 {
		st = sluicev1.Status(err.Status)
	}
	reason := sluicev1.Reason(sluicev1.Reason_value["REASON_"+strings.ToUpper(string(err.Reason))])
	s.mu.Lock()
	defer s.mu.Unlock()
	for range n {
		s.failures = append(s.failures, &sluicev1.PublishResult{Status: st, Error: &sluicev1.Error{
			Reason: reason, Message: err.Message, RetryAfterMs: err.RetryAfter.Milliseconds(), MaybeSent: err.MaybeSent,
		}})
	}
}

// CutAnswers stores the next n publish requests, but breaks their streams before the answer.
func (s *Server) CutAnswers(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cut += n
}

// append stores a message. The mutex is held.
func (s *Server) append(topic, producer string, node int, m *sluicev1.Message) *record {
	r := &record{msg: m, topic: topic, producer: producer, node: node}
	switch {
	case m.GetPartition() != "":
		r.partition, _ = strconv.Atoi(m.GetPartition()) // checked by judge
	case m.Key != nil:
		h := fnv.New32a()
		_, _ = h.Write(m.Key) // never fails
		r.partition = int(h.Sum32() % partitions)
	default:
		r.partition = len(s.topics[topic]) % partitions
	}
	place := fmt.Sprintf("%s/%d", topic, r.partition)
	r.offset = s.ends[place]
	s.ends[place]++
	s.topics[topic] = append(s.topics[topic], r)
	for _, g := range s.groups {
		g.add(r)
	}
	return r
}

// judge stores one message or refuses it; blocked are the stream's keys that failed. The mutex is held.
func (n *node) judge(topic, producer string, m *sluicev1.Message, blocked map[string]uint64) (*sluicev1.PublishResult, *sluicev1.Place) {
	s := n.s
	if m.Key != nil && blocked != nil {
		if seq, ok := blocked[string(m.Key)]; ok && seq != m.GetSequence() {
			return refusal(sluicev1.Status_STATUS_NOT_SENT, sluicev1.Reason_REASON_PRECEDING_FAILED, "an earlier message of the key failed"), nil
		}
		delete(blocked, string(m.Key))
	}
	var r *sluicev1.PublishResult
	if p, err := strconv.Atoi(m.GetPartition()); m.GetPartition() != "" && (err != nil || p < 0 || p >= partitions) {
		r = refusal(sluicev1.Status_STATUS_REFUSED, sluicev1.Reason_REASON_PARTITION_NOT_FOUND, "topic "+topic+" has no partition "+m.GetPartition())
	} else if len(s.failures) > 0 {
		r, s.failures = s.failures[0], s.failures[1:]
	}
	if r != nil {
		if m.Key != nil && blocked != nil {
			blocked[string(m.Key)] = m.GetSequence()
		}
		return r, nil
	}
	rec := s.append(topic, producer, n.index, m)
	return &sluicev1.PublishResult{Status: sluicev1.Status_STATUS_STORED, Offset: rec.offset}, &sluicev1.Place{Cluster: "fake", Partition: strconv.Itoa(rec.partition)}
}

func refusal(st sluicev1.Status, reason sluicev1.Reason, text string) *sluicev1.PublishResult {
	return &sluicev1.PublishResult{Status: st, Error: &sluicev1.Error{Reason: reason, Message: text}}
}

// publish judges a batch; false: break the stream instead of answering.
func (n *node) publish(req *sluicev1.PublishRequest, open *sluicev1.PublishOpen, blocked map[string]uint64) (*sluicev1.PublishResponse, bool) {
	n.s.mu.Lock()
	defer n.s.mu.Unlock()
	topic, producer := req.GetTopic(), req.GetProducer()
	if topic == "" {
		topic = open.GetTopic()
	}
	if producer == "" {
		producer = open.GetProducer()
	}
	resp := &sluicev1.PublishResponse{Results: make([]*sluicev1.PublishResult, len(req.GetMessages()))}
	for i, m := range req.GetMessages() {
		r, place := n.judge(topic, producer, m, blocked)
		if place != nil {
			r.Place = uint32(len(resp.Places))
			resp.Places = append(resp.Places, place)
		}
		resp.Results[i] = r
	}
	n.s.changed()
	if n.s.cut > 0 {
		n.s.cut--
		return nil, false
	}
	return resp, true
}

// Publish implements sluicev1.ProducerServiceServer.
func (n *node) Publish(_ context.Context, req *sluicev1.PublishRequest) (*sluicev1.PublishResponse, error) {
	resp, ok := n.publish(req, nil, nil)
	if !ok {
		return nil, status.Error(codes.Unavailable, "cut off by the test")
	}
	return resp, nil
}

// PublishStream implements sluicev1.ProducerServiceServer.
func (n *node) PublishStream(stream sluicev1.ProducerService_PublishStreamServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	open := first.GetOpen()
	if open == nil {
		return status.Error(codes.InvalidArgument, "the first frame does not open the stream")
	}
	frames := make(chan *sluicev1.PublishStreamRequest)
	var ended error
	n.s.wg.Go(func() {
		defer close(frames)
		for {
			f, err := stream.Recv()
			if err != nil {
				ended = err
				return
			}
			select {
			case frames <- f:
			case <-stream.Context().Done():
				return
			}
		}
	})
	blocked := map[string]uint64{}
	for told := false; ; {
		n.s.mu.Lock()
		leaving, change := n.leaving, n.s.change
		n.s.mu.Unlock()
		if leaving && !told {
			told = true
			if err := stream.Send(&sluicev1.PublishStreamResponse{Frame: &sluicev1.PublishStreamResponse_GoAway{GoAway: &sluicev1.GoAway{Message: "the test said so"}}}); err != nil {
				return err
			}
		}
		select {
		case <-change:
		case f, ok := <-frames:
			if !ok {
				if ended == io.EOF { //nolint:errorlint // gRPC returns it bare
					return nil
				}
				return ended
			}
			resp, ok := n.publish(f.GetPublish(), open, blocked)
			if !ok {
				return status.Error(codes.Unavailable, "cut off by the test")
			}
			if err := stream.Send(&sluicev1.PublishStreamResponse{Request: f.GetRequest(), Frame: &sluicev1.PublishStreamResponse_Publish{Publish: resp}}); err != nil {
				return err
			}
		}
	}
}
