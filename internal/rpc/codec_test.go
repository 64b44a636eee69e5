package rpc

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"io"
	"net/http"
	"runtime"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
)

func TestCodecBoundsEmbeddedMessages(t *testing.T) {
	t.Parallel()
	c := newCodec()
	headers := make([]*sluicev1.Header, maxElements+1)
	for i := range headers {
		headers[i] = &sluicev1.Header{}
	}
	for name, tc := range map[string]struct {
		frame proto.Message
		ok    bool
	}{
		"headers over": {&sluicev1.PublishStreamRequest{Frame: &sluicev1.PublishStreamRequest_Publish{Publish: &sluicev1.PublishRequest{Messages: []*sluicev1.Message{{Headers: headers}}}}}, false},
		"headers at": {&sluicev1.PublishStreamRequest{Frame: &sluicev1.PublishStreamRequest_Publish{Publish: &sluicev1.PublishRequest{
			Messages: []*sluicev1.Message{{Headers: headers[:maxElements-2], Body: make([]byte, 10_000)}},
		}}}, true},
		"large body": {&sluicev1.PublishStreamRequest{Frame: &sluicev1.PublishStreamRequest_Publish{Publish: &sluicev1.PublishRequest{Messages: []*sluicev1.Message{{Body: make([]byte, 4<<20)}}}}}, true},
	} {
		b, err := proto.Marshal(tc.frame)
		if err != nil {
			t.Fatal(err)
		}
		got := tc.frame.ProtoReflect().New().Interface()
		err = c.Unmarshal(mem.BufferSlice{mem.SliceBuffer(b)}, got)
		if (err == nil) != tc.ok {
			t.Errorf("%s: %v", name, err)
		}
		if tc.ok && !proto.Equal(got, tc.frame) {
			t.Errorf("%s: decoded differently", name)
		}
	}
}

func FuzzCodec(f *testing.F) {
	b, _ := proto.Marshal(&sluicev1.PublishStreamRequest{Request: 1, Frame: &sluicev1.PublishStreamRequest_Publish{Publish: &sluicev1.PublishRequest{
		Messages: []*sluicev1.Message{{Id: "a", Key: []byte("k"), Headers: []*sluicev1.Header{{Name: "h", Value: []byte("v")}}}},
	}}})
	f.Add(b)
	f.Add([]byte{})
	c := newCodec().(*codec)
	s := c.shapeOf((&sluicev1.PublishStreamRequest{}).ProtoReflect().Descriptor())
	f.Fuzz(func(t *testing.T, b []byte) {
		left := maxElements
		s.count(b, &left)
		var m sluicev1.PublishStreamRequest
		if proto.Unmarshal(b, &m) != nil {
			return
		}
		want := 0
		if m.GetFrame() != nil {
			want++
		}
		for _, msg := range m.GetPublish().GetMessages() {
			want += 1 + len(msg.GetHeaders())
		}
		// A oneof that is set twice counts twice, so there may be more.
		if got := maxElements - left; got < want {
			t.Errorf("counted %d, decoded %d", got, want)
		}
	})
}

func TestCompressedRequestIsBoundedWhenDecompressed(t *testing.T) {
	s := serve(t, DefaultConfig(), nil, &calls{publish: func(context.Context, *sluicev1.PublishRequest) (*sluicev1.PublishResponse, error) {
		return &sluicev1.PublishResponse{}, nil
	}})
	// 256 MiB of zeros in one message, made without holding them.
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	const size = 256 << 20
	msg := protowire.AppendTag(nil, 3, protowire.BytesType) // PublishRequest.messages
	msg = protowire.AppendVarint(msg, size+6)
	msg = protowire.AppendTag(msg, 3, protowire.BytesType) // Message.body
	msg = protowire.AppendVarint(msg, size)
	_, _ = z.Write(msg)
	zeros := make([]byte, 1<<20)
	for range size / len(zeros) {
		_, _ = z.Write(zeros)
	}
	_ = z.Close()

	frame := binary.BigEndian.AppendUint32([]byte{1}, uint32(zipped.Len()))
	frame = append(frame, zipped.Bytes()...)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	// A client library would decompress and compress on its own: speak HTTP/2 by hand.
	req, err := http.NewRequestWithContext(t.Context(), "POST", "http://"+s.GRPCAddr()+"/sluice.v1.ProducerService/Publish", bytes.NewReader(frame))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("Te", "trailers")
	req.Header.Set("Grpc-Encoding", "gzip")
	req.Header.Set("Authorization", "Bearer app")
	tr := &http.Transport{Protocols: new(http.Protocols)}
	tr.Protocols.SetUnencryptedHTTP2(true)
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	code := resp.Header.Get("Grpc-Status") + resp.Trailer.Get("Grpc-Status")
	if code != "8" { // ResourceExhausted
		t.Errorf("bomb: status %q %v %v", code, resp.Header, resp.Trailer)
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 64<<20 {
		t.Errorf("the bomb cost %d MiB of allocation", got>>20)
	}
	if _, err := sluicev1.NewProducerServiceClient(dial(t, s)).Publish(as(t.Context(), "app"), &sluicev1.PublishRequest{}, grpc.UseCompressor("gzip")); err != nil {
		t.Errorf("neighbour: %v", err)
	}
}
