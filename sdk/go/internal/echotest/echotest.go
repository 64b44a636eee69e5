// Package echotest is a node that says "stored" to everything, for benchmarks of the client. Nothing but benchmarks uses it.
package echotest

import (
	"context"
	"errors"
	"io"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/test/bufconn"

	"github.com/sluice-mq/sluice/sdk/go"
	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
)

type echo struct {
	sluicev1.UnimplementedProducerServiceServer
	sluicev1.UnimplementedSessionServiceServer
}

// Serve starts the node and tells how to reach and to stop it.
func Serve() (addr string, dial sluice.Option, stop func()) {
	l := bufconn.Listen(1 << 20)
	s := grpc.NewServer()
	sluicev1.RegisterProducerServiceServer(s, &echo{})
	sluicev1.RegisterSessionServiceServer(s, &echo{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = s.Serve(l) // ends with Stop
	}()
	dial = sluice.DialOptions(grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	return "echo:1", dial, func() {
		s.Stop()
		<-ended
	}
}

// Nodes implements sluicev1.SessionServiceServer.
func (*echo) Nodes(context.Context, *sluicev1.NodesRequest) (*sluicev1.NodesResponse, error) {
	return &sluicev1.NodesResponse{}, nil
}

// PublishStream implements sluicev1.ProducerServiceServer.
func (*echo) PublishStream(stream sluicev1.ProducerService_PublishStreamServer) error {
	places := []*sluicev1.Place{{Cluster: "c", Partition: "0"}}
	for {
		f, err := stream.Recv()
		if err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		msgs := f.GetPublish().GetMessages()
		if len(msgs) == 0 {
			continue
		}
		results := make([]*sluicev1.PublishResult, len(msgs))
		all := make([]sluicev1.PublishResult, len(msgs))
		for i := range results {
			all[i].Status = sluicev1.Status_STATUS_STORED
			results[i] = &all[i]
		}
		resp := &sluicev1.PublishResponse{Results: results, Places: places}
		if err := stream.Send(&sluicev1.PublishStreamResponse{Request: f.GetRequest(), Frame: &sluicev1.PublishStreamResponse_Publish{Publish: resp}}); err != nil {
			return err
		}
	}
}
