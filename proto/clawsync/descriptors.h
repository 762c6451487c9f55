/* What the hub speaks, described: a google.protobuf.FileDescriptorSet of every schema whose services it offers. */
#ifndef CLAWSYNC_DESCRIPTORS_H
#define CLAWSYNC_DESCRIPTORS_H

#include <stddef.h>
#include <stdint.h>

extern const uint8_t cs_proto_descriptors[];
extern const size_t cs_proto_descriptors_len;

#endif
