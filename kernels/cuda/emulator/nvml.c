// A stand-in for libnvidia-ml.so.1: the calls that crates/cuda's energy counter makes. The device takes 100 joules a call.
#include <stdio.h>
#include <string.h>
#define API __attribute__((visibility("default"))) int
API nvmlInit_v2(void) { return 0; }
API nvmlShutdown(void) { return 0; }
API nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
  *device = (void *)1;
  return strcmp(uuid, "GPU-e0e0e0e0-e0e0-e0e0-e0e0-e0e0e0e0e0e0") ? 6 : 0;
}
API nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *millijoules) {
  static unsigned long long total;
  *millijoules = total += 100000;
  return device ? 0 : 2;
}
