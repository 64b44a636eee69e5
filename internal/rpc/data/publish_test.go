package data

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/publish"
	"github.com/sluice-mq/sluice/internal/rpc"
	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
)

func openPublish(t *testing.T, b *bundle) sluicev1.ProducerService_PublishStreamClient {
	t.Helper()
	ctx, cancel := context.WithCancel(asApp(t.Context()))
	t.Cleanup(cancel)
	st, err := sluicev1.NewProducerServiceClient(b.conn()).PublishStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Send(&sluicev1.PublishStreamRequest{Frame: &sluicev1.PublishStreamRequest_Open{Open: &sluicev1.PublishOpen{Topic: "orders", Producer: "p"}}}); err != nil {
		t.Fatal(err)
	}
	return st
}

func batch(request uint64, ms ...*sluicev1.Message) *sluicev1.PublishStreamRequest {
	return &sluicev1.PublishStreamRequest{Request: request, Frame: &sluicev1.PublishStreamRequest_Publish{Publish: &sluicev1.PublishRequest{Messages: ms}}}
}

func TestUnaryPublishKeepsWhatAMessageIs(t *testing.T) {
	t.Parallel()
	b := start(t)
	b.publisher.judge = func(r *publish.Request) []publish.Result {
		return []publish.Result{
			{Status: publish.Stored, ID: "given", Cluster: "c", Partition: "1", Offset: 7},
			{Status: publish.MaybeSent, ID: "made", Err: &fault.Error{Reason: fault.DeadlineExceeded, Text: "late", MaybeSent: true}},
			{Status: publish.Stored, ID: "made2", Cluster: "c", Partition: "1", Offset: 8},
			{Status: publish.StoredNotReplicated, ID: "made3", Cluster: "c", Partition: "2", Offset: 1},
		}
	}
	resp, err := sluicev1.NewProducerServiceClient(b.conn()).Publish(asApp(t.Context()), &sluicev1.PublishRequest{
		Topic: "orders", Producer: "p", TimeoutMs: 1500, Durability: sluicev1.Durability_DURABILITY_ANY,
		Messages: []*sluicev1.Message{
			{Id: "given", Key: []byte{}, Body: []byte{0xff}, Headers: []*sluicev1.Header{{Name: "a", Value: []byte("1")}, {Name: "a", Value: []byte("2")}}},
			{Body: []byte{}, Tag: "t", Sequence: 5, Partition: "3"},
			{Headers: []*sluicev1.Header{{Name: "b"}}},
			{},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := &sluicev1.PublishResponse{
		Results: []*sluicev1.PublishResult{
			{Status: sluicev1.Status_STATUS_STORED, Offset: 7},
			{Status: sluicev1.Status_STATUS_MAYBE_SENT, Id: "made", Error: &sluicev1.Error{Reason: sluicev1.Reason_REASON_DEADLINE_EXCEEDED, Message: "late", MaybeSent: true}},
			{Status: sluicev1.Status_STATUS_STORED, Offset: 8, Id: "made2"},
			{Status: sluicev1.Status_STATUS_STORED_NOT_REPLICATED, Place: 1, Offset: 1, Id: "made3"},
		},
		Places: []*sluicev1.Place{{Cluster: "c", Partition: "1"}, {Cluster: "c", Partition: "2"}},
	}
	if d := cmp.Diff(want, resp, protocmp.Transform()); d != "" {
		t.Error(d)
	}
	wantReq := &publish.Request{Topic: "orders", Producer: "p", Timeout: 1500 * time.Millisecond, AnyDurability: true, Messages: []publish.Message{
		{ID: "given", Key: []byte{}, Body: []byte{0xff}, Headers: []publish.Header{{Name: "a", Value: []byte("1")}, {Name: "a", Value: []byte("2")}}},
		{Body: []byte{}, Tag: "t", Sequence: 5, Partition: "3"},
		{Headers: []publish.Header{{Name: "b"}}},
		{},
	}}
	if d := cmp.Diff(wantReq.Messages, b.publisher.last().Messages); d != "" {
		t.Error(d)
	}
	if got := b.publisher.last(); got.Timeout != wantReq.Timeout || !got.AnyDurability || got.Producer != "p" || got.Stream != nil {
		t.Errorf("request %+v", got)
	}
}

func TestPublishRefusesWrongShapes(t *testing.T) {
	t.Parallel()
	b := start(t)
	client := sluicev1.NewProducerServiceClient(b.conn())
	for name, req := range map[string]*sluicev1.PublishRequest{
		"none":       {Topic: "t"},
		"too many":   {Topic: "t", Messages: make([]*sluicev1.Message, maxMessages+1)},
		"timeout":    {Topic: "t", TimeoutMs: 60_001, Messages: []*sluicev1.Message{{}}},
		"durability": {Topic: "t", Durability: 9, Messages: []*sluicev1.Message{{}}},
	} {
		for i := range req.Messages {
			req.Messages[i] = &sluicev1.Message{}
		}
		if _, err := client.Publish(asApp(t.Context()), req); rpc.FromStatus(err) == nil || rpc.FromStatus(err).Reason != fault.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCallerThatLeavesIsToldMaybeSent(t *testing.T) {
	t.Parallel()
	b := start(t)
	b.publisher.hold = make(chan struct{})
	defer close(b.publisher.hold)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	_, err := b.service.Publish(ctx, &sluicev1.PublishRequest{Topic: "t", Messages: []*sluicev1.Message{{}}})
	var e *fault.Error
	if !errors.As(err, &e) || !e.MaybeSent || e.Reason != fault.DeadlineExceeded {
		t.Errorf("error %v", err)
	}
}

func TestPublishStreamAnswersInAnyOrderButPlacesInOrder(t *testing.T) {
	t.Parallel()
	b := start(t)
	st := openPublish(t, b)
	const n = 500
	go func() {
		for i := range n {
			_ = st.Send(batch(uint64(i+1), &sluicev1.Message{Id: fmt.Sprint(i), Body: []byte("x")}, &sluicev1.Message{Body: []byte("y")}))
		}
		_ = st.CloseSend()
	}()
	seen := make(map[uint64]bool)
	for {
		f, err := st.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		rs := f.GetPublish().GetResults()
		if len(rs) != 2 || rs[0].GetId() != "" || rs[1].GetId() != "made-1" || rs[0].GetStatus() != sluicev1.Status_STATUS_STORED {
			t.Fatalf("answer %v", f)
		}
		seen[f.GetRequest()] = true
	}
	if len(seen) != n {
		t.Errorf("%d answers", len(seen))
	}
	var lane *publish.Stream
	for i, r := range b.publisher.taken() {
		if r.Messages[0].ID != fmt.Sprint(i) || r.Topic != "orders" || r.Producer != "p" {
			t.Fatalf("batch %d is %+v", i, r)
		}
		if lane == nil {
			lane = r.Stream
		}
		if r.Stream != lane || lane == nil {
			t.Fatal("batches of one stream are in several lanes")
		}
	}
}

func TestPublishStreamFrameErrorSparesTheStream(t *testing.T) {
	t.Parallel()
	b := start(t)
	st := openPublish(t, b)
	for i, f := range []*sluicev1.PublishStreamRequest{batch(1), {Request: 2}, batch(3, &sluicev1.Message{})} {
		if err := st.Send(f); err != nil {
			t.Fatal(err)
		}
		got, err := st.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if got.GetRequest() != uint64(i+1) || (i < 2) != (got.GetError().GetReason() == sluicev1.Reason_REASON_INVALID_ARGUMENT) {
			t.Errorf("frame %d: %v", i, got)
		}
	}
	if err := st.Send(&sluicev1.PublishStreamRequest{Frame: &sluicev1.PublishStreamRequest_Open{Open: &sluicev1.PublishOpen{}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := st.Recv(); rpc.FromStatus(err) == nil || rpc.FromStatus(err).Reason != fault.InvalidArgument {
		t.Errorf("second opening: %v", err)
	}
}

func TestPublishStreamGoesAwayAndFinishes(t *testing.T) {
	t.Parallel()
	b := start(t)
	b.publisher.hold = make(chan struct{})
	st := openPublish(t, b)
	if err := st.Send(batch(1, &sluicev1.Message{})); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the batch is taken", func() bool { return b.publisher.last() != nil })
	b.server.GoAway()
	if f, err := st.Recv(); err != nil || f.GetGoAway() == nil {
		t.Fatalf("first frame after the drain: %v, %v", f, err)
	}
	// Sent before the client read the go-away: still answered.
	if err := st.Send(batch(2, &sluicev1.Message{})); err != nil {
		t.Fatal(err)
	}
	if err := st.CloseSend(); err != nil {
		t.Fatal(err)
	}
	close(b.publisher.hold)
	seen := 0
	for {
		f, err := st.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil || f.GetPublish() == nil {
			t.Fatalf("%v, %v", f, err)
		}
		seen++
	}
	if seen != 2 {
		t.Errorf("%d answers", seen)
	}
}

func TestPublishStreamWindowHoldsTheReader(t *testing.T) {
	t.Parallel()
	b := start(t, func(_ *rpc.Config, c *Config, _ *Deps) { c.StreamWindowBytes = 10_000 })
	b.publisher.hold = make(chan struct{})
	st := openPublish(t, b)
	const n = 20
	go func() {
		for i := range n {
			_ = st.Send(batch(uint64(i), &sluicev1.Message{Body: make([]byte, 4_000)}))
		}
		_ = st.CloseSend()
	}()
	eventually(t, "the window is full", func() bool { return len(b.publisher.taken()) == 2 })
	for range 100 {
		if got := len(b.publisher.taken()); got > 2 {
			t.Fatalf("%d batches in a window of two", got)
		}
		time.Sleep(time.Millisecond / 10) // polls a hundred times: a wrong reader would have gone on
	}
	close(b.publisher.hold)
	for i := range n {
		if _, err := st.Recv(); err != nil {
			t.Fatalf("answer %d: %v", i, err)
		}
	}
}

func TestRevokedTokenEndsPublishStream(t *testing.T) {
	t.Parallel()
	b := start(t, func(r *rpc.Config, _ *Config, _ *Deps) { r.Recheck = 10 * time.Millisecond })
	st := openPublish(t, b)
	b.tokens.revoke()
	if _, err := st.Recv(); rpc.FromStatus(err) == nil || rpc.FromStatus(err).Reason != fault.Unauthenticated {
		t.Errorf("%v", err)
	}
}

func TestOldConnectionIsAskedToMove(t *testing.T) {
	t.Parallel()
	b := start(t, func(r *rpc.Config, _ *Config, _ *Deps) { r.ConnectionAge = time.Second })
	st := openPublish(t, b)
	if f, err := st.Recv(); err != nil || f.GetGoAway() == nil {
		t.Errorf("%v, %v", f, err)
	}
}

func TestTraceContextIsAddedToSingleCalls(t *testing.T) {
	t.Parallel()
	b := start(t)
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	ctx := metadata.AppendToOutgoingContext(asApp(t.Context()), "traceparent", parent, "tracestate", "a=b")
	own := []*sluicev1.Header{{Name: "traceparent", Value: []byte("mine")}}
	if _, err := sluicev1.NewProducerServiceClient(b.conn()).Publish(ctx, &sluicev1.PublishRequest{Topic: "t", Messages: []*sluicev1.Message{
		{Headers: []*sluicev1.Header{{Name: "x"}}}, {Headers: own},
	}}); err != nil {
		t.Fatal(err)
	}
	want := [][]publish.Header{
		{{Name: "x"}, {Name: "traceparent", Value: []byte(parent)}, {Name: "tracestate", Value: []byte("a=b")}},
		{{Name: "traceparent", Value: []byte("mine")}},
	}
	got := b.publisher.last().Messages
	if d := cmp.Diff(want, [][]publish.Header{got[0].Headers, got[1].Headers}); d != "" {
		t.Error(d)
	}
	b.post("/v1/topics/t/messages", `{"messages":[{"body":"x"}]}`, "Traceparent", parent)
	if d := cmp.Diff(want[0][1:2], b.publisher.last().Messages[0].Headers); d != "" {
		t.Error(d)
	}
	b.post("/v1/topics/t/messages", `{"messages":[{"body":"x"}]}`, "Traceparent", "rubbish")
	if hs := b.publisher.last().Messages[0].Headers; len(hs) != 0 {
		t.Errorf("rubbish became %v", hs)
	}
}
