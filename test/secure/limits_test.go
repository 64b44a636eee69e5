package secure

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/sluice-mq/sluice/sdk/go"
	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
)

// bomb is a publish request of zeros in one message, compressed: members of 10 KiB that hold 10 MiB each.
func bomb(t *testing.T, members int) []byte {
	t.Helper()
	const member = 10 << 20
	body := protowire.AppendTag(nil, 2, protowire.BytesType) // Message.body
	body = protowire.AppendVarint(body, uint64(member*members))
	head := protowire.AppendTag(nil, 1, protowire.BytesType) // PublishRequest.topic
	head = protowire.AppendString(head, "orders")
	head = protowire.AppendTag(head, 3, protowire.BytesType) // PublishRequest.messages
	head = protowire.AppendVarint(head, uint64(len(body)+member*members))
	out := squeeze(t, append(head, body...))
	zeros := squeeze(t, make([]byte, member))
	if len(zeros) > 11<<10 {
		t.Fatalf("a member takes %d bytes", len(zeros))
	}
	return append(out, bytes.Repeat(zeros, members)...)
}

func squeeze(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = z.Write(b); err == nil {
		err = z.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// raw makes a unary gRPC call with a compressed message as it is, and gives grpc-status and grpc-message.
func raw(ctx context.Context, addr, method, token string, compressed []byte) (codes.Code, string, error) {
	frame := append([]byte{1}, binary.BigEndian.AppendUint32(nil, uint32(len(compressed)))...)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+addr+method, bytes.NewReader(append(frame, compressed...)))
	if err != nil {
		return 0, "", err
	}
	for k, v := range map[string]string{"Content-Type": "application/grpc", "TE": "trailers", "Grpc-Encoding": "gzip", "Authorization": "Bearer " + token} {
		req.Header.Set(k, v)
	}
	tr := &http.Transport{Protocols: new(http.Protocols)}
	tr.Protocols.SetUnencryptedHTTP2(true)
	defer tr.CloseIdleConnections()
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return 0, "", err
	}
	from := resp.Trailer
	if resp.Header.Get("Grpc-Status") != "" {
		from = resp.Header
	}
	code, err := strconv.ParseUint(from.Get("Grpc-Status"), 10, 32)
	return codes.Code(code), from.Get("Grpc-Message"), err
}

var peakRSS = regexp.MustCompile(`VmHWM:\s+(\d+) kB`)

// peak is the highest resident memory of a process since resetPeak, in bytes.
func peak(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Skipf("memory of processes cannot be read here: %v", err)
	}
	m := peakRSS.FindSubmatch(b)
	if m == nil {
		t.Fatalf("no VmHWM in:\n%s", b)
	}
	kb, err := strconv.Atoi(string(m[1]))
	if err != nil {
		t.Fatal(err)
	}
	return kb << 10
}

// resetPeak makes the peak the memory of this moment.
func resetPeak(t *testing.T, pid int) {
	t.Helper()
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0); err != nil {
		t.Skipf("peaks of memory cannot be reset here: %v", err)
	}
}

// neighbour publishes over the SDK, message by message, until stop, which gives how many were stored.
func (s *site) neighbour(t *testing.T, token, topic string) (stop func() int) {
	t.Helper()
	client := s.client(t, token)
	ctx, cancel := context.WithCancel(t.Context())
	var failed error
	stored := 0
	begun := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		p := client.Publisher(topic)
		var once sync.Once
		for ctx.Err() == nil && failed == nil {
			if _, failed = p.Publish(context.WithoutCancel(ctx), sluice.Message{Body: []byte("neighbour")}); failed == nil {
				stored++
			}
			once.Do(func() { close(begun) })
		}
	})
	<-begun
	return func() int {
		cancel()
		wg.Wait()
		if failed != nil {
			t.Errorf("a neighbour's message failed: %v", failed)
		}
		return stored
	}
}

const publishMethod = "/sluice.v1.ProducerService/Publish"

func TestCompressedBombIsRefusedInLittleMemory(t *testing.T) {
	// Alone: it measures memory.
	s := setUp(t, nil)
	ctx := within(t, time.Minute)
	s.administrate(ctx, "", "topic", "create", "orders", "--partitions", "1")
	token := s.app(ctx, "billing")
	// Over HTTP a shorter one: what a client goes on to write after the answer ends in a reset connection.
	b, short := bomb(t, 103), bomb(t, 10)

	// First an honest compressed request, so that what is loaded at the first use is not counted.
	honest, err := proto.Marshal(&sluicev1.PublishRequest{Topic: "orders", Messages: []*sluicev1.Message{{Body: make([]byte, 100<<10)}}})
	if err != nil {
		t.Fatal(err)
	}
	if code, text, err := raw(ctx, s.GRPC, publishMethod, token, squeeze(t, honest)); err != nil || code != codes.OK {
		t.Fatalf("an honest compressed request: %v %s %v", code, text, err)
	}
	stop := s.neighbour(t, token, "orders")
	resetPeak(t, s.PID())
	before := peak(t, s.PID())
	for range 3 {
		if code, text, err := raw(ctx, s.GRPC, publishMethod, token, b); err != nil || code != codes.ResourceExhausted {
			t.Errorf("bomb over gRPC: %v %s %v", code, text, err)
		}
		for _, path := range []string{"/v1/topics/orders/messages", "/v1/groups/g/pull", "/v1/groups/g/ack"} {
			status, text, err := call(ctx, nil, http.MethodPost, "http://"+s.HTTP+path, token, string(short), "Content-Encoding", "gzip")
			if err != nil || status != http.StatusBadRequest || !strings.Contains(text, "content-encoding") {
				t.Errorf("bomb at %s: %d %s %v", path, status, text, err)
			}
		}
	}
	grown := peak(t, s.PID()) - before
	stored := stop()
	t.Logf("bombs of %d KiB: peak memory grew %.1f MiB over %.1f MiB; %d messages of a neighbour stored meanwhile", len(b)>>10, float64(grown)/(1<<20), float64(before)/(1<<20), stored)
	if grown >= 32<<20 {
		t.Errorf("peak memory grew %d MiB", grown>>20)
	}
}

func TestSlowConnectionsDoNotStopAPublish(t *testing.T) {
	t.Parallel()
	const each = 2000
	s := setUp(t, nil)
	ctx := within(t, time.Minute)
	s.administrate(ctx, "", "topic", "create", "orders", "--partitions", "1")
	token := s.app(ctx, "billing")
	var slow []net.Conn
	defer func() {
		for _, c := range slow {
			_ = c.Close() // the server may have
		}
	}()
	for addr, begin := range map[string]string{
		s.HTTP: "POST /v1/topics/orders/messages HTTP/1.1\r\nHost: x\r\nAuthorization: Bea", // never ends
		s.GRPC: "PRI * HTTP/2.0\r\n",
	} {
		for range each {
			c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
			if err != nil {
				t.Fatalf("connection %d: %v", len(slow), err)
			}
			slow = append(slow, c)
			if _, err := c.Write([]byte(begin)); err != nil {
				t.Fatal(err)
			}
		}
	}
	begun := time.Now()
	s.post(t, s.HTTP, "/v1/topics/orders/messages", token, `{"messages":[{"body":"x"}]}`, http.StatusOK)
	s.Must(ctx, "x\n", s.reach(token, "pub", "orders")...)
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("publishing beside %d slow connections took %v", len(slow), took)
	}
	// They do not stay either.
	for i, c := range slow {
		if err := c.SetReadDeadline(begun.Add(25 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, c); isTimeout(err) {
			t.Fatalf("slow connection %d to %s is open after 25 s", i, c.RemoteAddr())
		}
	}
}

func isTimeout(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}

func TestTooLargeMessageIsRefusedAlone(t *testing.T) {
	t.Parallel()
	s := setUp(t, nil)
	ctx := within(t, time.Minute)
	s.administrate(ctx, "", "topic", "create", "orders", "--partitions", "1")
	token := s.app(ctx, "billing")
	// As large as fits into a request beside its neighbours.
	large := make([]byte, 8<<20-1024)
	resp, err := sluicev1.NewProducerServiceClient(dial(t, s.GRPC, nil)).Publish(bearer(ctx, token), &sluicev1.PublishRequest{
		Topic: "orders", Messages: []*sluicev1.Message{{Body: []byte("before")}, {Body: large}, {Body: []byte("after")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range resp.GetResults() {
		want, reason := sluicev1.Status_STATUS_STORED, sluicev1.Reason_REASON_UNSPECIFIED
		if i == 1 {
			want, reason = sluicev1.Status_STATUS_REFUSED, sluicev1.Reason_REASON_MESSAGE_TOO_LARGE
		}
		if r.GetStatus() != want || r.GetError().GetReason() != reason {
			t.Errorf("gRPC, message %d: %v", i, r)
		}
	}
	a := s.post(t, s.HTTP, "/v1/topics/orders/messages", token,
		`{"messages":[{"body":"before"},{"body_base64":"`+base64.StdEncoding.EncodeToString(large)+`"},{"body":"after"}]}`, http.StatusMultiStatus)
	if len(a.Results) != 3 {
		t.Fatalf("%d results for 3 messages", len(a.Results))
	}
	for i, r := range a.Results {
		if want := []string{"stored", "refused", "stored"}[i]; r.Status != want || i == 1 && (r.Error == nil || r.Error.Code != "message_too_large") {
			t.Errorf("HTTP, message %d: %+v, want %s", i, r, want)
		}
	}
	// A request over its own limit, of 8 MiB, is refused as a whole, and so is one that is not even read.
	whole := s.post(t, s.HTTP, "/v1/topics/orders/messages", token,
		`{"messages":[{"body":"before"},{"body_base64":"`+base64.StdEncoding.EncodeToString(make([]byte, 8<<20))+`"}]}`, http.StatusRequestEntityTooLarge)
	if whole.Error == nil || whole.Error.Code != "message_too_large" {
		t.Errorf("a request over 8 MiB: %+v", whole)
	}
	_, err = sluicev1.NewProducerServiceClient(dial(t, s.GRPC, nil)).Publish(bearer(ctx, token), &sluicev1.PublishRequest{
		Topic: "orders", Messages: []*sluicev1.Message{{Body: large}, {Body: large}},
	})
	if err == nil || !strings.Contains(err.Error(), "larger than max") {
		t.Errorf("a request of 16 MiB: %v", err)
	}
	status, text, err := call(ctx, nil, http.MethodPost, "http://"+s.HTTP+"/v1/topics/orders/messages", token, `{"messages":[{"body":"`+strings.Repeat("x", 16<<20)+`"}]}`)
	if err == nil && (status != http.StatusRequestEntityTooLarge || !strings.Contains(text, "message_too_large")) {
		t.Errorf("a body of 16 MiB: %d %s", status, text)
	}
	got := s.drain(t, ctx, s.HTTP, token, "g", "orders", 4, s.HTTP)
	if len(got) != 4 {
		t.Errorf("%d messages came, want the 4 neighbours", len(got))
	}
}
