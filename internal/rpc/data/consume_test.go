package data

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sluice-mq/sluice/internal/consume"
	"github.com/sluice-mq/sluice/internal/snapshot"
	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
)

func openConsume(t *testing.T, b *bundle, sub *sluicev1.Subscription) (sluicev1.ConsumerService_ConsumeClient, context.CancelFunc) {
	t.Helper()
	ctx, cancel := context.WithCancel(asApp(t.Context()))
	t.Cleanup(cancel)
	st, err := sluicev1.NewConsumerServiceClient(b.conn()).Consume(ctx)
	if err != nil {
		t.Fatal(err)
	}
	send(t, st, &sluicev1.ConsumeRequest{Frame: &sluicev1.ConsumeRequest_Open{Open: sub}})
	if opened := receive(t, st); opened.GetOpened() == nil {
		t.Fatalf("the first answer is %v, want opened", opened)
	}
	return st, cancel
}

func send(t *testing.T, st sluicev1.ConsumerService_ConsumeClient, r *sluicev1.ConsumeRequest) {
	t.Helper()
	if err := st.Send(r); err != nil {
		t.Fatal(err)
	}
}

func credit(t *testing.T, st sluicev1.ConsumerService_ConsumeClient, n uint32) {
	t.Helper()
	send(t, st, &sluicev1.ConsumeRequest{Frame: &sluicev1.ConsumeRequest_Credit{Credit: n}})
}

func receive(t *testing.T, st sluicev1.ConsumerService_ConsumeClient) *sluicev1.ConsumeResponse {
	t.Helper()
	r, err := st.Recv()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// deliveries receives until n messages came.
func deliveries(t *testing.T, st sluicev1.ConsumerService_ConsumeClient, n int) []*sluicev1.Delivery {
	t.Helper()
	var out []*sluicev1.Delivery
	for len(out) < n {
		out = append(out, receive(t, st).GetDeliveries().GetMessages()...)
	}
	return out
}

var bySub = &sluicev1.Subscription{Group: "g", Topics: []string{"orders"}, MaxInFlight: 50}

func TestStreamDeliversExactlyItsCredits(t *testing.T) {
	t.Parallel()
	b := start(t)
	for i := range 20 {
		b.consumer.add(message(i, 10))
	}
	st, _ := openConsume(t, b, bySub)
	credit(t, st, 3)
	credit(t, st, 4)
	if got := deliveries(t, st, 7); len(got) != 7 {
		t.Fatalf("%d messages for 7 credits", len(got))
	}
	if queued, leased := b.consumer.counts(); queued != 13 || leased != 7 {
		t.Errorf("%d queued and %d leased after 7 of 20", queued, leased)
	}
	// An ack is answered under its number and gives no credit by itself.
	send(t, st, &sluicev1.ConsumeRequest{Frame: &sluicev1.ConsumeRequest_Acks{Acks: &sluicev1.ConsumeAcks{Request: 9, Acks: []*sluicev1.Ack{
		{Receipt: []byte("r-0"), Action: sluicev1.Action_ACTION_ACCEPT}, {Receipt: []byte("forged"), Action: sluicev1.Action_ACTION_ACCEPT},
	}}}})
	r := receive(t, st).GetAcks()
	if r.GetRequest() != 9 || len(r.GetResults()) != 2 || r.GetResults()[0].GetError() != nil || r.GetResults()[1].GetError().GetReason() != sluicev1.Reason_REASON_RECEIPT_INVALID {
		t.Errorf("acks answered with %v", r)
	}
	if queued, leased := b.consumer.counts(); queued != 13 || leased != 6 {
		t.Errorf("%d queued and %d leased after an accept", queued, leased)
	}
}

func TestStreamOfAVanishedClientClosesItsSession(t *testing.T) {
	t.Parallel()
	b := start(t)
	b.consumer.add(message(1, 10))
	st, cancel := openConsume(t, b, bySub)
	credit(t, st, 10)
	deliveries(t, st, 1)
	cancel()
	eventually(t, "the session is closed", func() bool { return strings.Contains(b.consumer.session(0).state(), "closed") })
}

func TestStreamTellsWhatTheEngineTells(t *testing.T) {
	t.Parallel()
	b := start(t)
	st, _ := openConsume(t, b, bySub)
	s := b.consumer.session(0)
	s.tell(consume.Event{Nodes: []*snapshot.Node{{Name: "n2", GRPC: "127.0.0.1:2"}}})
	if n := receive(t, st).GetNodes().GetNodes(); len(n) != 1 || n[0].GetName() != "n2" {
		t.Errorf("nodes %v", n)
	}
	s.tell(consume.Event{Revoked: [][]byte{[]byte("r-3")}})
	if r := receive(t, st).GetRevoked().GetReceipts(); len(r) != 1 || string(r[0]) != "r-3" {
		t.Errorf("revoked %q", r)
	}
	s.tell(consume.Event{GoAway: "the node stops"})
	if g := receive(t, st).GetGoAway(); g.GetMessage() == "" {
		t.Errorf("go-away %v", g)
	}
}

func TestLargeDeliveriesAreCutIntoFrames(t *testing.T) {
	t.Parallel()
	b := start(t)
	for i := range 8 {
		b.consumer.add(message(i, 700_000))
	}
	st, _ := openConsume(t, b, bySub)
	credit(t, st, 8)
	got := deliveries(t, st, 8)
	for i, d := range got {
		if d.GetOffset() != int64(i) || len(d.GetBody()) != 700_000 {
			t.Fatalf("message %d is at offset %d with %d bytes", i, d.GetOffset(), len(d.GetBody()))
		}
	}
}

func TestPullOverHTTPSettlesAndLeases(t *testing.T) {
	t.Parallel()
	b := start(t)
	b.consumer.add(message(0, 3), message(1, 3))
	code, _, body := b.post("/v1/groups/g/pull", `{"topics":["orders"],"max_messages":1,"wait":"5s","client":"c1"}`)
	if code != http.StatusOK || !strings.Contains(body, `"offset":"0"`) {
		t.Fatalf("%d %s", code, body)
	}
	first := receiptIn(t, body)
	code, _, body = b.post("/v1/groups/g/pull", fmt.Sprintf(`{"topics":["orders"],"wait":"5s","client":"c1","acks":[{"receipt":%q,"action":"accept"},{"receipt":"!","action":"accept"}]}`, first))
	if code != http.StatusOK || !strings.Contains(body, `"offset":"1"`) || !strings.Contains(body, `"receipt_invalid"`) {
		t.Fatalf("a bad ack must not block the pull: %d %s", code, body)
	}
	if _, leased := b.consumer.counts(); leased != 1 {
		t.Errorf("%d leased, want the second message only", leased)
	}
	code, _, body = b.post("/v1/groups/g/ack", fmt.Sprintf(`{"acks":[{"receipt":%q,"action":"release","delay":"5s"},{"receipt":%q,"action":"accept"}]}`, receiptIn(t, body), first))
	if code != http.StatusMultiStatus {
		t.Errorf("%d %s: one of two is settled, want 207", code, body)
	}
	start := time.Now()
	code, _, body = b.post("/v1/groups/g/pull", `{"topics":["orders"],"wait_ms":50}`)
	if code != http.StatusOK || !strings.Contains(body, `"messages":[]`) || time.Since(start) < 50*time.Millisecond {
		t.Errorf("an empty pull: %d %s after %v", code, body, time.Since(start))
	}
}

func receiptIn(t *testing.T, body string) string {
	t.Helper()
	_, rest, ok := strings.Cut(body, `"receipt":"`)
	if !ok {
		t.Fatalf("no receipt in %s", body)
	}
	receipt, _, _ := strings.Cut(rest, `"`)
	return receipt
}
