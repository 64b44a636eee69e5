// Command relay is the floor for anything like Sluice: it takes the gRPC streams
// of sluice.v1 and hands them to franz-go, and the other way round, with the same
// batches, headers and producer settings, and with nothing else. No identity, no
// checks, no limits, no order, no retries of its own; what it delivers is not
// leased, and an acknowledgement is answered without looking.
//
// It exists to be measured beside Sluice (test/bench/compare): what Sluice uses
// more is the price of its promises.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"google.golang.org/grpc"

	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address of the gRPC listener; the one taken is printed on a line")
	bootstrap := flag.String("bootstrap", "", "Kafka brokers, comma-separated")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *listen, *bootstrap); err != nil {
		log.Fatalf("relay: %v", err)
	}
}

func run(ctx context.Context, listen, bootstrap string) error {
	if bootstrap == "" {
		return errors.New("-bootstrap names no broker")
	}
	lis, err := net.Listen("tcp", listen)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	fmt.Println(lis.Addr())
	return serve(ctx, lis, strings.Split(bootstrap, ","))
}

// serve runs until ctx ends.
func serve(ctx context.Context, lis net.Listener, brokers []string) error {
	p, err := newProducer(brokers)
	if err != nil {
		return err
	}
	defer p.cl.Close()
	// The windows and buffers of Sluice's own listener.
	srv := grpc.NewServer(
		grpc.InitialWindowSize(4<<20), grpc.InitialConnWindowSize(16<<20),
		grpc.ReadBufferSize(128<<10), grpc.WriteBufferSize(128<<10), grpc.MaxRecvMsgSize(16<<20),
	)
	sluicev1.RegisterProducerServiceServer(srv, p)
	sluicev1.RegisterConsumerServiceServer(srv, &consumer{brokers: brokers})
	context.AfterFunc(ctx, srv.Stop)
	return srv.Serve(lis)
}
