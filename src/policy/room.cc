namespace meshnode {}
